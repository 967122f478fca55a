//! What the directory of a log says of itself: that it is a log, of which format, and whether it
//! was left cleanly.
//!
//! ```text
//! format:          "MSLG"  version u32  crc32c u32
//! clean-shutdown:  run id u128  crc32c u32
//! ```
//! Integers are little-endian. Every later version of the format file begins with the same magic
//! and version and ends with the checksum of all before it, so that an older node can tell a
//! newer format from damage.

use std::{
    io,
    path::{Path, PathBuf},
};

use mainstem_env::{Env, Fs};

use crate::{
    checkpoint::{self, Checkpoint},
    error::{FormatDamage, LogError},
    paths,
};

/// The format of everything in the directory.
pub(crate) const FORMAT_VERSION: u32 = 1;

pub(crate) const FORMAT_MAGIC: [u8; 4] = *b"MSLG";

/// The largest format file that is read.
const FORMAT_BYTES_MAX: usize = 4096;

/// Checks the directory or makes it, takes the mark of a clean stop away, and reads the
/// checkpoint. Returns the run that stopped cleanly, if the last one did.
pub(crate) async fn prepare(
    env: &Env,
    dir: PathBuf,
    must_exist: bool,
) -> Result<(Option<u128>, Checkpoint), LogError> {
    let this = env.clone();
    env.blocking("log-start", move || {
        let fs = &*this.fs;
        // Before anything is changed.
        check_or_make(fs, &dir, must_exist)?;
        let mark = paths::marker(&dir);
        let clean_run = take_mark(fs, &mark).map_err(LogError::io(&mark))?;
        fs.sync_dir(&dir).map_err(LogError::io(&dir))?;
        let path = paths::checkpoint(&dir);
        let checkpoint =
            Checkpoint::load(this.clone(), path.clone()).map_err(LogError::io(path))?;
        Ok((clean_run, checkpoint))
    })
    .await
    .ok_or(LogError::Closed)?
}

// === format ===

/// What is gone is not made anew: empty partitions in its place would pass the loss off as a
/// node that never had any records.
fn check_or_make(fs: &dyn Fs, dir: &Path, must_exist: bool) -> Result<(), LogError> {
    let lost = |missing: &Path| LogError::Lost {
        dir: dir.to_owned(),
        missing: missing.to_owned(),
    };
    let there = |path: &Path| fs.exists(path).map_err(LogError::io(path));
    let format = paths::format(dir);
    if there(&format)? {
        check_format(fs, &format)?;
        // It was durable before the format file was there.
        let partitions = paths::partitions(dir);
        if there(&partitions)? {
            Ok(())
        } else {
            Err(lost(&partitions))
        }
    } else if !must_exist {
        make(fs, dir)
    } else if there(dir)? {
        Err(lost(&format))
    } else {
        Err(lost(dir))
    }
}

/// Whether the format file tells the format that we know.
pub(crate) fn check_format(fs: &dyn Fs, path: &Path) -> Result<(), LogError> {
    let bytes = match fs.read(path, FORMAT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
        Err(error) => return Err(LogError::io(path)(error)),
    };
    let damage = match decode_format(&bytes) {
        Some(FORMAT_VERSION) => return Ok(()),
        Some(found) => FormatDamage::Version {
            found,
            known: FORMAT_VERSION,
        },
        None => FormatDamage::Bytes,
    };
    Err(LogError::Format {
        path: path.to_owned(),
        damage,
    })
}

/// Makes the directory. The format file comes last: where it is, all is.
fn make(fs: &dyn Fs, dir: &Path) -> Result<(), LogError> {
    let partitions = paths::partitions(dir);
    fs.create_dir_all(&partitions)
        .map_err(LogError::io(&partitions))?;
    fs.sync_dir(dir).map_err(LogError::io(dir))?;
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs.sync_dir(parent).map_err(LogError::io(parent))?;
    }
    // Every log has one, so that it shows when it is gone.
    let points = paths::checkpoint(dir);
    fs.write_atomic(&points, &checkpoint::encode(&checkpoint::Points::new()))
        .map_err(LogError::io(points))?;
    let format = paths::format(dir);
    fs.write_atomic(&format, &encode_format(FORMAT_VERSION))
        .map_err(LogError::io(format))
}

fn encode_format(version: u32) -> Vec<u8> {
    let mut out = FORMAT_MAGIC.to_vec();
    out.extend_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The version; `None` if it is no whole format file.
fn decode_format(bytes: &[u8]) -> Option<u32> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body).to_le_bytes() != *crc {
        return None;
    }
    let (magic, rest) = body.split_first_chunk::<4>()?;
    let (version, more) = rest.split_first_chunk::<4>()?;
    let version = u32::from_le_bytes(*version);
    let is_ours = *magic == FORMAT_MAGIC && (version != FORMAT_VERSION || more.is_empty());
    is_ours.then_some(version)
}

// === the mark of a clean stop ===

const MARK_BYTES: usize = 20;

/// Leaves the mark of a clean stop. Blocks.
pub(crate) fn leave_mark(fs: &dyn Fs, dir: &Path, run_id: u128) -> io::Result<()> {
    fs.write_atomic(&paths::marker(dir), &encode_mark(run_id))
}

/// The mark of a clean stop holds for one start: from now on files may change.
fn take_mark(fs: &dyn Fs, path: &Path) -> io::Result<Option<u128>> {
    let bytes = match fs.read(path, MARK_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
        Err(error) => return Err(error),
    };
    fs.remove_file(path)?;
    Ok(decode_mark(&bytes))
}

fn encode_mark(run_id: u128) -> Vec<u8> {
    let mut out = run_id.to_le_bytes().to_vec();
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode_mark(bytes: &[u8]) -> Option<u128> {
    let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
    let (id, crc) = bytes.split_first_chunk::<16>()?;
    (crc32c::crc32c(id).to_le_bytes() == *crc).then(|| u128::from_le_bytes(*id))
}

#[cfg(test)]
mod tests {
    use mainstem_env::MemFs;

    use super::*;

    fn check(bytes: &[u8]) -> Result<(), LogError> {
        let fs = MemFs::new();
        let dir = Path::new("/log");
        make(&fs, dir).expect("made");
        fs.write_atomic(&paths::format(dir), bytes).expect("write");
        check_or_make(&fs, dir, false)
    }

    #[test]
    fn damage_of_the_format_file_is_told_from_a_newer_format() {
        let good = encode_format(FORMAT_VERSION);
        assert!(check(&good).is_ok());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let damage = match check(&bad) {
                Err(LogError::Format { damage, .. }) => damage,
                other => panic!("{other:?}"),
            };
            assert_eq!(damage, FormatDamage::Bytes);
            assert!(check(&good[..at]).is_err());
        }
        assert!(check(&[0; FORMAT_BYTES_MAX + 1]).is_err());
        // A later format may say more.
        let mut newer = FORMAT_MAGIC.to_vec();
        newer.extend_from_slice(&9_u32.to_le_bytes());
        newer.extend_from_slice(b"more");
        newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
        let error = check(&newer).expect_err("unknown");
        assert!(error.to_string().contains("/log/format"), "{error}");
        assert!(error.to_string().contains("version 9"), "{error}");
    }
}
