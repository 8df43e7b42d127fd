//! What names the jobs that share a limit.

use std::fmt;
use std::sync::Arc;

/// Identifies jobs that share a limit: a host, a customer, a file; see
/// [`Builder::key_by`](crate::Builder::key_by).
///
/// It is made of text or of a number.
///
/// # Examples
///
/// ```
/// use brigade::Key;
///
/// assert_eq!(Key::from("example.org").to_string(), "example.org");
/// assert_ne!(Key::from(7_u32), Key::from("7"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Number(i128),
    Text(Arc<str>),
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(Repr::Text(Arc::from(text)))
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(Repr::Text(Arc::from(text)))
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Arc<str>> for Key {
    fn from(text: Arc<str>) -> Self {
        Self(Repr::Text(text))
    }
}

macro_rules! from_numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for Key {
            fn from(number: $number) -> Self {
                Self(Repr::Number(number as i128))
            }
        }
    )*};
}

from_numbers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Number(number) => fmt::Display::fmt(number, f),
            Repr::Text(text) => fmt::Display::fmt(text, f),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Number(number) => fmt::Debug::fmt(number, f),
            Repr::Text(text) => fmt::Debug::fmt(text, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_text_or_its_number() {
        let text: Arc<str> = Arc::from("7");
        assert_eq!(
            [
                Key::from(String::from("7")),
                Key::from(&String::from("7")),
                Key::from(text)
            ],
            [(); 3].map(|()| Key::from("7"))
        );
        assert_eq!(
            [Key::from(7_u64), Key::from(7_usize), Key::from(7_i8)],
            [(); 3].map(|()| Key::from(7_u32))
        );
        assert_eq!(
            [
                Key::from(u64::MAX).to_string(),
                Key::from(i64::MIN).to_string()
            ],
            [u64::MAX.to_string(), i64::MIN.to_string()]
        );
        assert_eq!(
            (Key::from("a").to_string(), format!("{:?}", Key::from("a"))),
            ("a".to_owned(), "\"a\"".to_owned())
        );
        assert_eq!(
            (
                Key::from(7_u32).to_string(),
                format!("{:?}", Key::from(7_u32))
            ),
            ("7".to_owned(), "7".to_owned())
        );
    }
}
