//! What is in a queue: a row as the payload of a job, and its answer as the result. Both are JSON.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use brigade::broker::JobId;
use brigade::csv::Row;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The payload of a job: `{"row":1,"header":["url"],"cells":["http://…"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payload {
    /// The number of the row in its file, counted from 1.
    pub(super) row: u64,
    pub(super) header: Vec<String>,
    /// As many as the header has.
    pub(super) cells: Vec<String>,
}

/// The result of a job: `{"row":1,"inputs":1,"header":["url","row","ok",…],"cells":["http://…","1",…]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) row: u64,
    /// How many of the columns are those of the input. The others are the tool's.
    pub(super) inputs: usize,
    pub(super) header: Vec<String>,
    /// As many as the header has.
    pub(super) cells: Vec<Cell>,
}

/// A cell: a string, or `{"base64":"…"}` where it is not UTF-8, as the output of a command may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Cell {
    Text(String),
    Bytes { base64: String },
}

impl Payload {
    pub(super) fn of(row: &Row, header: &[String]) -> Self {
        Self {
            row: row.record_number(),
            header: header.to_vec(),
            cells: row.iter().map(str::to_owned).collect(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and strings are JSON")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let payload: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no row of `brigade enqueue`: {error}"))?;
        if payload.cells.len() != payload.header.len() || payload.row == 0 {
            return Err(format!(
                "row {} has {} cells, and the header has {} columns",
                payload.row,
                payload.cells.len(),
                payload.header.len()
            ));
        }
        Ok(payload)
    }

    /// The id of a row that is given none: the number of the row, and a digest of header and cells.
    pub(super) fn id(&self) -> JobId {
        let mut digest = Sha256::new();
        for list in [&self.header, &self.cells] {
            digest.update((list.len() as u64).to_le_bytes());
            for text in list {
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text);
            }
        }
        let digest: String = digest.finalize()[..12]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        JobId::new(format!("{}-{digest}", self.row))
    }
}

impl Outcome {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and strings are JSON")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let outcome: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no answer of `brigade work`: {error}"))?;
        if outcome.cells.len() != outcome.header.len() || outcome.inputs > outcome.header.len() {
            return Err(format!(
                "it has {} cells for {} columns",
                outcome.cells.len(),
                outcome.header.len()
            ));
        }
        Ok(outcome)
    }
}

impl From<Vec<u8>> for Cell {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(
            |error| Self::Bytes {
                base64: BASE64_STANDARD.encode(error.as_bytes()),
            },
            Self::Text,
        )
    }
}

impl Cell {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            // What another producer wrote there is kept as it is.
            Self::Bytes { base64 } => BASE64_STANDARD
                .decode(&base64)
                .unwrap_or_else(|_| base64.into_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(row: u64, header: &[&str], cells: &[&str]) -> Payload {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Payload {
            row,
            header: own(header),
            cells: own(cells),
        }
    }

    #[test]
    fn a_payload_has_row_header_and_cells() {
        let payload = payload(7, &["a", "b"], &["x\"y", "ü\n"]);
        let json = r#"{"row":7,"header":["a","b"],"cells":["x\"y","ü\n"]}"#;
        assert_eq!(String::from_utf8(payload.encode()).unwrap(), json);
        assert_eq!(Payload::decode(json.as_bytes()), Ok(payload));
    }

    #[test]
    fn what_is_no_row_is_refused() {
        for bytes in [
            &b""[..],
            b"\xff",
            b"[]",
            b"{}",
            br#"{"row":1,"header":["a"]}"#,
            br#"{"row":1,"header":["a"],"cells":[]}"#,
            br#"{"row":0,"header":["a"],"cells":["x"]}"#,
            br#"{"row":-1,"header":["a"],"cells":["x"]}"#,
            br#"{"row":1,"header":["a"],"cells":[5]}"#,
        ] {
            assert!(Payload::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn an_id_depends_on_row_header_and_cells_and_on_nothing_else() {
        let id = |row, header, cells| payload(row, header, cells).id();
        let known = id(1, &["a", "b"], &["x", "y"]);
        assert_eq!(known, id(1, &["a", "b"], &["x", "y"]));
        assert_eq!(known.as_str(), "1-0945de527f012f1fd80ba7ce");
        for other in [
            id(2, &["a", "b"], &["x", "y"]),
            id(1, &["a", "c"], &["x", "y"]),
            id(1, &["a", "b"], &["xy", ""]),
            id(1, &["ab", ""], &["x", "y"]),
            id(1, &["a"], &["x"]),
        ] {
            assert_ne!(known, other);
        }
    }

    #[test]
    fn a_result_keeps_cells_that_are_not_utf8() {
        let outcome = Outcome {
            row: 1,
            inputs: 1,
            header: vec!["a".into(), "out".into()],
            cells: vec![b"x".to_vec().into(), b"\xff\x00".to_vec().into()],
        };
        let json = outcome.encode();
        let text = r#"{"row":1,"inputs":1,"header":["a","out"],"cells":["x",{"base64":"/wA="}]}"#;
        assert_eq!(String::from_utf8(json.clone()).unwrap(), text);
        let cells: Vec<Vec<u8>> = Outcome::decode(&json)
            .unwrap()
            .cells
            .into_iter()
            .map(Cell::into_bytes)
            .collect();
        assert_eq!(cells, [b"x".to_vec(), b"\xff\x00".to_vec()]);
        for bytes in [
            &b"{}"[..],
            br#"{"row":1,"inputs":3,"header":["a"],"cells":["x"]}"#,
        ] {
            assert!(Outcome::decode(bytes).is_err());
        }
    }
}
