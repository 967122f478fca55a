//! Changes inputs a little.

use mainstem_simulation::Dice;

/// No input grows beyond this.
const INPUT_BYTES_MAX: usize = 256 << 10;
/// At most so many changes one after the other.
const CHANGES_MAX: u64 = 6;
/// A block that is moved, doubled or taken from another input.
const BLOCK_BYTES_MAX: u64 = 512;

/// Values at which lengths, counts and offsets turn.
const TURNS: [i64; 18] = [
    0,
    1,
    -1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x10_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    -2_147_483_648,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
    1 << 40,
];

/// Draws the changes.
#[derive(Debug, Clone)]
pub struct Mutator {
    dice: Dice,
}

// === impl Mutator ===

impl Mutator {
    /// One that starts at this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
        }
    }

    /// The dice, for choices around a mutation.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// Changes `input` in one to a few places; `other` is where foreign blocks come from.
    pub fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.dice.below(CHANGES_MAX) {
            self.change(input, other);
        }
        input.truncate(INPUT_BYTES_MAX);
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        match self.dice.below(10) {
            0..=1 => self.flip(input),
            2..=3 => self.overwrite_number(input),
            4 => self.step_number(input),
            5 => {
                let at = self.dice.index(input.len() + 1);
                input.truncate(at);
            }
            6 => self.remove(input),
            7 => {
                let block = self.block(input);
                self.insert(input, &block);
            }
            8 => {
                let block = self.block(other);
                self.insert(input, &block);
            }
            _ => self.overwrite(input, other),
        }
    }

    fn flip(&mut self, input: &mut [u8]) {
        let at = self.dice.index(input.len());
        if let Some(byte) = input.get_mut(at) {
            *byte ^= 1 << self.dice.below(8);
        }
    }

    /// A number of one to eight bytes, in either byte order, at a turn.
    fn overwrite_number(&mut self, input: &mut [u8]) {
        let value = TURNS[self.dice.index(TURNS.len())];
        self.put_number(input, |_| value);
    }

    /// A number a little larger or smaller than the one that is there.
    fn step_number(&mut self, input: &mut [u8]) {
        let step = self.dice.below(33) as i64 - 16;
        self.put_number(input, |old| old.wrapping_add(step));
    }

    fn put_number(&mut self, input: &mut [u8], change: impl FnOnce(i64) -> i64) {
        let width = 1 << self.dice.below(4);
        let at = self.dice.index(input.len());
        let big_endian = self.dice.one_in(2);
        let Some(place) = input.get_mut(at..at + width) else {
            return;
        };
        let mut bytes = [0; 8];
        if big_endian {
            bytes[8 - width..].copy_from_slice(place);
            let value = change(i64::from_be_bytes(bytes)).to_be_bytes();
            place.copy_from_slice(&value[8 - width..]);
        } else {
            bytes[..width].copy_from_slice(place);
            let value = change(i64::from_le_bytes(bytes)).to_le_bytes();
            place.copy_from_slice(&value[..width]);
        }
    }

    fn remove(&mut self, input: &mut Vec<u8>) {
        let start = self.dice.index(input.len());
        let len = 1 + self.dice.below(BLOCK_BYTES_MAX) as usize;
        let end = (start + len).min(input.len());
        input.drain(start..end);
    }

    fn block(&mut self, from: &[u8]) -> Vec<u8> {
        let start = self.dice.index(from.len());
        let len = 1 + self.dice.below(BLOCK_BYTES_MAX) as usize;
        let end = (start + len).min(from.len());
        from.get(start..end).unwrap_or_default().to_vec()
    }

    fn insert(&mut self, input: &mut Vec<u8>, block: &[u8]) {
        let at = self.dice.index(input.len() + 1);
        input.splice(at..at, block.iter().copied());
    }

    fn overwrite(&mut self, input: &mut [u8], other: &[u8]) {
        let block = self.block(other);
        let at = self.dice.index(input.len());
        for (place, byte) in input.iter_mut().skip(at).zip(block) {
            *place = byte;
        }
    }
}
