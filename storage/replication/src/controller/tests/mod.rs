//! The controller: what a term decides, and the shell around it.

mod term;
mod world;
