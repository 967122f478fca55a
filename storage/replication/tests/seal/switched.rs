//! Runs with rules switched off: what breaks, in a check of the world or in an assertion of a machine.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use mainstem_metadata::{Rule, rules};

/// What broke first; `None` if nothing did.
pub(crate) type Outcome = Option<String>;

thread_local! {
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Panics that are expected are not printed.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_EXPECTED.get() {
                print(panic);
            }
        }));
    });
}

/// What `run` sees without these rules. A machine's own assertion counts like a check.
pub(crate) fn without(without: &[Rule], run: impl FnOnce() -> Outcome) -> Outcome {
    if without.is_empty() {
        return run();
    }
    hush();
    let _without = rules::without(without);
    IS_EXPECTED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    IS_EXPECTED.set(false);
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some(text.unwrap_or_else(|| "panic".to_owned()))
    })
}
