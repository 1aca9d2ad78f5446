//! Compressed answers: gzip for clients that accept it, piece by piece and off the reactor.
//!
//! Facts: RFC 9110 sections 12.5.3 (`Accept-Encoding`) and 8.4.1.3 (gzip, and `x-gzip` as its other name), RFC 1952.

use std::io::{self, Write as _};

use axum::http::{HeaderMap, header};
use flate2::{Compression, write::GzEncoder};

/// Bytes of compressed output that are gathered before they are handed on.
const GZIP_PIECE: usize = 16 * 1024;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// Compressed.
    Gzip,
}

impl Encoding {
    /// Encoding that the client asks for; identity by default.
    #[must_use]
    pub fn of(request: &HeaderMap) -> Self {
        let (mut named, mut any) = (None, None);
        for value in request.get_all(header::ACCEPT_ENCODING) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let mut parts = item.split(';').map(str::trim);
                let coding = parts.next().unwrap_or_default();
                let accepted =
                    !parts.filter_map(|part| part.strip_prefix("q=")).any(|weight| weight.parse() == Ok(0.0));
                if ["gzip", "x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name)) {
                    named = Some(accepted);
                } else if coding == "*" {
                    any = Some(accepted);
                }
            }
        }
        if named.or(any).unwrap_or(false) { Self::Gzip } else { Self::Identity }
    }

    /// Headers for an encoding. `Vary` says that the answer depends on the request.
    #[must_use]
    pub fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, header::HeaderValue::from_static("accept-encoding"));
        if self == Self::Gzip {
            headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
        }
        headers
    }

    /// A writer of this encoding.
    #[must_use]
    pub fn writer(self) -> Writer {
        match self {
            Self::Identity => Writer::Identity,
            // The fastest level: text with the same labels in every line shrinks to a fraction at any.
            Self::Gzip => Writer::Gzip(GzEncoder::new(Vec::with_capacity(2 * GZIP_PIECE), Compression::fast())),
        }
    }
}

/// Encodes pieces of one answer.
#[derive(Debug)]
pub enum Writer {
    /// Hands pieces on.
    Identity,
    /// Collects compressed pieces.
    Gzip(GzEncoder<Vec<u8>>),
}

impl Writer {
    /// Takes a piece; returns bytes that are ready to be sent, if any.
    ///
    /// # Errors
    /// Never for want of room: the output is memory.
    pub fn piece(&mut self, piece: String) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Identity => Ok(Some(piece.into_bytes())),
            Self::Gzip(encoder) => {
                encoder.write_all(piece.as_bytes())?;
                let ready = encoder.get_ref().len() >= GZIP_PIECE;
                Ok(ready.then(|| std::mem::replace(encoder.get_mut(), Vec::with_capacity(2 * GZIP_PIECE))))
            }
        }
    }

    /// Rest to send at the end.
    ///
    /// # Errors
    /// As [`Self::piece`].
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(Vec::new()),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }

    /// A whole answer at once.
    ///
    /// # Errors
    /// As [`Self::piece`].
    pub fn whole(mut self, text: Vec<u8>) -> io::Result<Vec<u8>> {
        if let Self::Gzip(encoder) = &mut self {
            encoder.write_all(&text)?;
            return self.finish();
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &'static str) -> Encoding {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static(value));
        Encoding::of(&headers)
    }

    #[test]
    fn clients_get_what_they_accept() {
        assert_eq!(Encoding::of(&HeaderMap::new()), Encoding::Identity);
        // The headers of Prometheus and curl.
        for value in
            ["gzip", "deflate, gzip, br, zstd", "GZIP;q=0.5", "x-gzip", "*", "br;q=1.0, *;q=0.1", "gzip;q=1, *;q=0"]
        {
            assert_eq!(asked(value), Encoding::Gzip, "{value}");
        }
        for value in ["", "identity", "gzip;q=0", "gzip; q=0.000, *", "br", "*;q=0", "gzippy"] {
            assert_eq!(asked(value), Encoding::Identity, "{value}");
        }
    }
}
