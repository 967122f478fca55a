//! System calls of a node, as strace shows them, and the rule that acknowledgements follow syncs.
//!
//! The order of lines is the order in which the kernel stopped the threads. A thread that learns of
//! another one's call goes on only after the line of that call's end, so what caused what is in the
//! right order whatever the clock says.

mod parse;
mod rule;

pub use parse::{Call, parse};
pub use rule::{Acknowledged, Violation, check};

/// The arguments of strace, before the program: everything that [`parse`] needs, written to `out`.
/// The traced process stays the child (`-D`); buffers are shown whole, up to `buffer_bytes_max`.
pub fn strace_arguments(out: &std::path::Path, buffer_bytes_max: usize) -> Vec<String> {
    let calls = "trace=write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,fdatasync,fsync";
    let mut arguments: Vec<String> = ["strace", "-D", "-f", "--seccomp-bpf", "-yy", "-xx"]
        .map(str::to_owned)
        .to_vec();
    arguments.extend(["-s".to_owned(), buffer_bytes_max.to_string()]);
    arguments.extend(["-e".to_owned(), calls.to_owned()]);
    arguments.extend(["-o".to_owned(), out.display().to_string()]);
    arguments
}
