//! The body of an answer, which is produced piece by piece, whatever its length.
use std::sync::LazyLock;

use flate2::{Compress, Compression, Crc, FlushCompress};

/// A piece has about this many bytes.
const PIECE: usize = 64 * 1024;

/// Padding of pages.
static DOTS: [u8; 16 * 1024] = [b'.'; 16 * 1024];

/// Some bytes, then `filler_left` bytes of the filler, over and over, then some bytes.
#[derive(Debug, Default)]
pub(crate) struct Body {
    start: Vec<u8>,
    filler: &'static [u8],
    filler_left: u64,
    end: Vec<u8>,
}

impl Body {
    pub(crate) fn bytes(start: impl Into<Vec<u8>>) -> Self {
        Self {
            start: start.into(),
            ..Self::default()
        }
    }

    /// A body of exactly `length` bytes: `start` is cut or padded.
    pub(crate) fn padded(mut start: Vec<u8>, length: u64) -> Self {
        if length < start.len() as u64 {
            start.truncate(length as usize);
        }
        let filler_left = length - start.len() as u64;
        Self {
            start,
            filler: &DOTS,
            filler_left,
            end: Vec::new(),
        }
    }

    pub(crate) fn endless() -> Self {
        Self::padded(Vec::new(), u64::MAX)
    }

    /// A gzip file of `mebibytes` MiB of zeros.
    pub(crate) fn bomb(mebibytes: u32) -> Self {
        let zeros = &*ZEROS;
        let mut checksum = Crc::new();
        for _ in 0..mebibytes {
            checksum.combine(&zeros.checksum);
        }
        // A last block without content, the checksum, the length.
        let mut end = vec![0x03, 0x00];
        end.extend_from_slice(&checksum.sum().to_le_bytes());
        end.extend_from_slice(&(mebibytes << 20).to_le_bytes());
        Self {
            start: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
            filler: &zeros.deflated,
            filler_left: u64::from(mebibytes) * zeros.deflated.len() as u64,
            end,
        }
    }

    /// The number of bytes that are left.
    pub(crate) fn len(&self) -> u64 {
        (self.start.len() as u64)
            .saturating_add(self.filler_left)
            .saturating_add(self.end.len() as u64)
    }

    /// Moves the next piece to the end of `out`; nothing, if nothing is left.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.start);
        let limit = out.len() + PIECE;
        while self.filler_left > 0 {
            if out.len() >= limit {
                return;
            }
            let take = self.filler_left.min(self.filler.len() as u64);
            out.extend_from_slice(&self.filler[..take as usize]);
            self.filler_left -= take;
        }
        out.append(&mut self.end);
    }
}

/// A MiB of zeros as deflated blocks that depend on nothing before them and end on a whole byte, so
/// that they can be repeated.
struct Zeros {
    deflated: Vec<u8>,
    checksum: Crc,
}

static ZEROS: LazyLock<Zeros> = LazyLock::new(|| {
    let zeros = vec![0; 1 << 20];
    let mut checksum = Crc::new();
    checksum.update(&zeros);
    let mut deflated = Vec::with_capacity(64 * 1024);
    Compress::new(Compression::best(), false)
        .compress_vec(&zeros, &mut deflated, FlushCompress::Full)
        .expect("deflating into memory cannot fail");
    Zeros { deflated, checksum }
});

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn all(mut body: Body) -> Vec<u8> {
        let mut out = Vec::new();
        while body.len() > 0 {
            let before = out.len();
            body.take(&mut out);
            assert!(
                out.len() - before <= 2 * PIECE,
                "a piece of {} bytes",
                out.len() - before
            );
        }
        out
    }

    #[test]
    fn a_padded_body_has_exactly_its_length() {
        for length in [0, 1, 5, 6, 1024, 16_384, 200_001] {
            let body = all(Body::padded(b"start".to_vec(), length));
            assert_eq!(body.len() as u64, length);
            assert!(b"start".starts_with(&body[..body.len().min(5)]));
        }
    }

    #[test]
    fn a_bomb_is_one_whole_gzip_file() {
        for mebibytes in [0, 1, 3, 40] {
            let packed = all(Body::bomb(mebibytes));
            assert!(
                packed.len() < 64 + 2048 * mebibytes as usize,
                "{} bytes",
                packed.len()
            );
            let mut unpacked = Vec::new();
            // The decoder compares checksum and length.
            GzDecoder::new(&packed[..])
                .read_to_end(&mut unpacked)
                .unwrap();
            assert_eq!(unpacked.len(), (mebibytes as usize) << 20);
            assert!(unpacked.iter().all(|byte| *byte == 0));
        }
    }
}
