//! The shell over in-memory streams, on a real broker: what a client sends as bytes, and the bytes
//! that it gets.

mod client;
mod connecting;
mod ending;
mod full_disk;
mod messages;
mod web;
mod world;

use client::{Client, bytes_of};
use world::World;
