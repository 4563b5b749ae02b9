//! Bodies compressed a little at a time, others having their turn in between.

use flate2::write::GzEncoder;
use std::io::{self, Write};

/// `compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Plain bytes per step: some 300 µs of gzip.
const STEP_BYTES: usize = 32 << 10;
/// The Collector's: the fastest that is worth it.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

impl Compression {
    /// The coding's name on gRPC and HTTP, if there is a coding.
    pub fn coding(self) -> Option<&'static str> {
        match self {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        }
    }
}

/// `body` compressed, with `head` bytes of room before it.
pub async fn compress(compression: Compression, body: &[u8], head: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; head];
    match compression {
        Compression::None => out.extend_from_slice(body),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
            write_all(&mut encoder, body).await?;
            out = encoder.finish()?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
            // Declared, so that a receiver can refuse by its limit at once.
            encoder.set_pledged_src_size(Some(body.len() as u64))?;
            encoder.include_contentsize(true)?;
            write_all(&mut encoder, body).await?;
            out = encoder.finish()?;
        }
    }
    Ok(out)
}

async fn write_all(encoder: &mut impl Write, body: &[u8]) -> io::Result<()> {
    for step in body.chunks(STEP_BYTES) {
        encoder.write_all(step)?;
        glommio::executor().yield_task_queue_now().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_compressed_can_be_read_by_others() {
        let body: Vec<u8> = (0..300_000_u32)
            .flat_map(|number| (number / 7).to_le_bytes())
            .collect();
        glommio::LocalExecutor::default().run(async move {
            let gzip = compress(Compression::Gzip, &body, 5).await.expect("to memory");
            let mut plain = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&gzip[5..]);
            decoder.read_to_end(&mut plain).expect("gzip");
            assert!(plain == body && gzip.len() < body.len() / 2);
            let zstd = compress(Compression::Zstd, &body, 5).await.expect("to memory");
            assert!(zstd::decode_all(&zstd[5..]).expect("zstd") == body);
            let none = compress(Compression::None, &body, 5).await.expect("to memory");
            assert!(none[5..] == body);
        });
    }
}
