//! What is done with the body of an answer: it is counted, kept for a column, taken apart as JSON,
//! or saved to a file.

use std::cell::RefCell;
use std::io;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use smol::fs::{self, File};
use smol::io::AsyncWriteExt;

use super::client::{Body, ClientError};
use crate::options::values::Extract;

/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// What is kept of bodies.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) max_bytes: usize,
    pub(crate) include: bool,
    pub(crate) extract: Vec<Extract>,
    /// Buffers that no body is being read with.
    pub(crate) buffers: RefCell<Vec<Box<[u8]>>>,
}

/// A body that was read to its end.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) bytes: u64,
    /// Empty unless it is included or taken apart.
    text: Vec<u8>,
    /// Of a body that is saved.
    pub(crate) sha256: Option<String>,
}

/// Why a body was not read to its end, or not saved.
#[derive(Debug)]
pub(crate) enum ContentError {
    Client(ClientError),
    TooLarge,
    /// The file cannot be written.
    Save(PathBuf, io::Error),
}

impl Keep {
    /// Reads a body to its end; `save` is the file that it goes to, and the number of its row.
    pub(crate) async fn read(
        &self,
        mut body: impl Body,
        save: Option<(&Path, u64)>,
    ) -> Result<Content, ContentError> {
        let keeps = self.include || !self.extract.is_empty();
        let mut content = Content::default();
        let mut saved = match save {
            Some((path, row)) => Some(Saved::create(path, row).await?),
            None => None,
        };
        let mut chunk = self.buffer();
        loop {
            let length = body.read(&mut chunk).await.map_err(ContentError::Client)?;
            if length == 0 {
                break;
            }
            content.bytes += length as u64;
            if content.bytes > self.max_bytes as u64 {
                return Err(ContentError::TooLarge);
            }
            if keeps {
                content.text.extend_from_slice(&chunk[..length]);
            }
            if let Some(saved) = &mut saved {
                saved.write(&chunk[..length]).await?;
            }
        }
        self.buffers.borrow_mut().push(chunk);
        if let Some(saved) = saved {
            content.sha256 = Some(saved.finish().await?);
        }
        Ok(content)
    }

    /// One of the buffers, or a new one. Those of bodies that were not read to their ends are gone.
    fn buffer(&self) -> Box<[u8]> {
        let buffer = self.buffers.borrow_mut().pop();
        buffer.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
    }

    /// The cells of the body and of the values that are taken out of it.
    pub(crate) fn cells(&self, content: &Content) -> Vec<Vec<u8>> {
        let mut cells = Vec::new();
        if self.include {
            cells.push(content.text.clone());
        }
        if !self.extract.is_empty() {
            let json = serde_json::from_slice::<serde_json::Value>(&content.text).ok();
            cells.extend(self.extract.iter().map(|extract| {
                let value = json
                    .as_ref()
                    .and_then(|json| json.pointer(&extract.pointer));
                value.map(cell).unwrap_or_default()
            }));
        }
        cells
    }

    /// The names of the columns of [`cells`](Self::cells).
    pub(crate) fn columns(&self) -> impl Iterator<Item = String> {
        let body = self.include.then(|| "body".to_owned());
        let extract = self.extract.iter().map(|extract| extract.column.clone());
        body.into_iter().chain(extract)
    }
}

/// A JSON value as a cell: texts without quotes, null as nothing.
fn cell(value: &serde_json::Value) -> Vec<u8> {
    match value {
        serde_json::Value::Null => Vec::new(),
        serde_json::Value::String(text) => text.clone().into_bytes(),
        value => value.to_string().into_bytes(),
    }
}

/// A file that has its name only when it is whole.
struct Saved<'a> {
    path: &'a Path,
    part: PathBuf,
    file: File,
    digest: Sha256,
    is_whole: bool,
}

impl<'a> Saved<'a> {
    async fn create(path: &'a Path, row: u64) -> Result<Self, ContentError> {
        // The name of a part is that of no other body.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{row}.part"));
        let part = path.with_file_name(name);
        let file = async {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).await?;
            }
            File::create(&part).await
        };
        match file.await {
            Ok(file) => Ok(Self {
                path,
                part,
                file,
                digest: Sha256::new(),
                is_whole: false,
            }),
            Err(error) => Err(ContentError::Save(part, error)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.digest.update(bytes);
        let written = self.file.write_all(bytes).await;
        written.map_err(|error| ContentError::Save(self.path.to_owned(), error))
    }

    async fn finish(mut self) -> Result<String, ContentError> {
        let renamed = async {
            self.file.flush().await?;
            fs::rename(&self.part, self.path).await
        };
        renamed
            .await
            .map_err(|error| ContentError::Save(self.path.to_owned(), error))?;
        self.is_whole = true;
        let digest = std::mem::take(&mut self.digest).finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Drop for Saved<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// The path of the body of a row under the directory: `00/12/001234.html`.
pub(crate) fn numbered(number: u64, extension: &str) -> PathBuf {
    let digits = format!("{number:06}");
    let split = digits.len() - 4;
    [&digits[..split], &digits[split..split + 2]]
        .iter()
        .collect::<PathBuf>()
        .join(format!("{digits}.{extension}"))
}

/// The path that a row names, if it stays under the directory.
pub(crate) fn named(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let is_inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let is_plain = !name.is_empty() && !name.contains('\0') && !name.ends_with('/');
    (is_inside && is_plain).then(|| path.to_owned())
}

/// The extension of the file of a body.
pub(crate) fn extension(content_type: &str) -> &'static str {
    let mime = content_type.split(';').next().unwrap_or_default().trim();
    match mime.to_ascii_lowercase().as_str() {
        "text/html" | "application/xhtml+xml" => "html",
        "application/json" => "json",
        "text/plain" => "txt",
        "text/csv" => "csv",
        "text/css" => "css",
        "text/xml" | "application/xml" => "xml",
        "text/javascript" | "application/javascript" => "js",
        "application/pdf" => "pdf",
        "application/zip" => "zip",
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/svg+xml" => "svg",
        "image/webp" => "webp",
        mime if mime.ends_with("+json") => "json",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::options::values::extract;

    struct Bytes(Vec<u8>);

    impl Body for Bytes {
        async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
            let length = self.0.len().min(buffer.len()).min(1000);
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0.drain(..length);
            Ok(length)
        }

        fn connect_time(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn keep(max_bytes: usize, pointers: &[&str]) -> Keep {
        Keep {
            max_bytes,
            include: true,
            extract: pointers.iter().map(|text| extract(text).unwrap()).collect(),
            buffers: RefCell::default(),
        }
    }

    #[test]
    fn a_body_is_read_up_to_its_limit_and_no_further() {
        let read = |max| smol::block_on(keep(max, &[]).read(Bytes(vec![7; 2500]), None));
        let content = read(2500).unwrap();
        assert_eq!((content.bytes, content.text.len()), (2500, 2500));
        assert!(matches!(read(2499), Err(ContentError::TooLarge)));
    }

    #[test]
    fn values_are_taken_out_of_json_and_missing_ones_are_empty() {
        let keep = keep(
            999,
            &["lat=/r/0/lat", "name=/r/0/na~1me", "gone=/x", "all="],
        );
        let body = br#"{"r":[{"lat":52.5,"na/me":"B \"x\"","n":null}]}"#.to_vec();
        let content = smol::block_on(keep.read(Bytes(body.clone()), None)).unwrap();
        let cells: Vec<_> = keep
            .cells(&content)
            .into_iter()
            .map(|cell| String::from_utf8(cell).unwrap())
            .collect();
        assert_eq!(cells[0].as_bytes(), body);
        assert_eq!(cells[1..4], ["52.5", "B \"x\"", ""]);
        assert!(cells[4].starts_with("{\"r\":"));
        assert_eq!(keep.columns().count(), cells.len());
        let broken = Content {
            text: b"<html>".to_vec(),
            ..Content::default()
        };
        assert!(keep.cells(&broken)[1..].iter().all(Vec::is_empty));
    }

    #[test]
    fn a_saved_body_has_its_name_when_it_is_whole_and_leaves_nothing_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("00/00/a.html");
        let read =
            |max| smol::block_on(keep(max, &[]).read(Bytes(vec![b'x'; 3]), Some((&path, 7))));
        assert!(read(2).is_err());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            0
        );
        let digest = read(3).unwrap().sha256.unwrap();
        assert!(digest.starts_with("cd2eb0837c9b4c96"), "{digest}");
        assert_eq!(std::fs::read(&path).unwrap(), b"xxx");
    }

    #[test]
    fn saved_bodies_stay_under_their_directory() {
        assert_eq!(numbered(1234, "html"), Path::new("00/12/001234.html"));
        assert_eq!(
            numbered(12_345_678, "bin"),
            Path::new("1234/56/12345678.bin")
        );
        assert_eq!(named("a/b.html"), Some("a/b.html".into()));
        for wrong in ["", "/etc/passwd", "../a", "a/../../b", "a/", "a\0b"] {
            assert_eq!(named(wrong), None, "{wrong:?}");
        }
        assert_eq!(extension("Text/HTML; charset=utf-8"), "html");
        assert_eq!(extension("application/ld+json"), "json");
        assert_eq!(extension(""), "bin");
    }
}
