//! Replies: a status, headers and a body, and the bytes of their head.
use std::io::Write as _;

use crate::body::Body;
use crate::text::push_html;

/// How the client learns where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// By `Content-Length`.
    Known,
    /// By the last chunk; by the end of the connection in HTTP/1.0.
    Chunked,
    /// By a `Content-Length` that is not the body's.
    Claimed(u64),
}

/// An answer in HTTP.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) content_type: &'static str,
    pub(crate) body: Body,
    pub(crate) length: Length,
}

pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

impl Reply {
    pub(crate) fn new(status: u16, content_type: &'static str, body: Body) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content_type,
            body,
            length: Length::Known,
        }
    }

    /// A page of HTML whose title is a text.
    pub(crate) fn page(status: u16, title: &str) -> Self {
        Self::new(status, HTML, Body::bytes(page(title)))
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Whether a body follows the head of an answer to `GET`.
    pub(crate) fn has_body(&self) -> bool {
        self.status >= 200 && self.status != 204 && self.status != 304
    }

    /// Appends the head.
    pub(crate) fn write_head(&self, out: &mut Vec<u8>, is_http_1_1: bool, keep_alive: bool) {
        let ok = "writing into memory cannot fail";
        write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).expect(ok);
        if self.has_body() {
            write!(out, "Content-Type: {}\r\n", self.content_type).expect(ok);
            match self.length {
                Length::Known => write!(out, "Content-Length: {}\r\n", self.body.len()),
                Length::Claimed(length) => write!(out, "Content-Length: {length}\r\n"),
                Length::Chunked if is_http_1_1 => write!(out, "Transfer-Encoding: chunked\r\n"),
                Length::Chunked => Ok(()),
            }
            .expect(ok);
        }
        for (name, value) in &self.headers {
            write!(out, "{name}: {value}\r\n").expect(ok);
        }
        match (is_http_1_1, keep_alive) {
            (true, true) | (false, false) => {}
            (true, false) => out.extend_from_slice(b"Connection: close\r\n"),
            (false, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A page of HTML with a title.
pub(crate) fn page(title: &str) -> String {
    let mut page = String::with_capacity(64 + title.len());
    page.push_str("<!doctype html>\n<title>");
    push_html(&mut page, title);
    page.push_str("</title>\n<p>");
    page
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        418 => "I'm a teapot",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_states_the_length_that_the_body_has() {
        let reply = Reply::new(200, TEXT, Body::bytes("12345")).with("A", 1);
        let mut out = Vec::new();
        reply.write_head(&mut out, true, true);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 5\r\nA: 1\r\n\r\n"
        );
    }

    #[test]
    fn no_length_is_stated_where_no_body_follows() {
        let mut out = Vec::new();
        Reply::page(204, "t").write_head(&mut out, true, false);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        );
    }
}
