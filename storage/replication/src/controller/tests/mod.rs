//! The controller: what a term decides, and the shell around it.

mod shell;
mod term;
mod world;
