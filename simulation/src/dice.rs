//! Randomness of tests.

use mainstem_env::Random;
use parking_lot::Mutex;

/// A small generator (SplitMix64): the same seed gives the same numbers on every machine, also after
/// an update of some library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dice(u64);

/// [`Dice`] as the randomness of a node.
#[derive(Debug)]
pub(crate) struct DiceRandom(Mutex<Dice>);

// === impl Dice ===

impl Dice {
    /// A generator that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.next_u64() % bound
        }
    }

    /// An index of something of this length; 0 if that is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// True this often in ten thousand.
    pub fn chance(&mut self, per_10_000: u16) -> bool {
        per_10_000 > 0 && self.below(10_000) < u64::from(per_10_000)
    }

    /// A generator of its own, so that what one part draws does not change what another gets.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }
}

// === impl DiceRandom ===

impl DiceRandom {
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Mutex::new(dice))
    }
}

impl Random for DiceRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut dice = self.0.lock();
        for part in bytes.chunks_mut(8) {
            let random = dice.next_u64().to_le_bytes();
            let len = part.len();
            part.copy_from_slice(&random[..len]);
        }
    }
}
