//! OpenFT (giFT): downloads.
//!
//! Source: giFT-OpenFT's `ft_transfer.c`, libprotoident. Matched, in `http.rs`: a GET request with the header
//! "X-OpenftAlias". Guard: that header; the request line alone proves nothing.

use super::dissector::Dissector;
use crate::abi::protocol::Protocol;
/// First bytes, and prefixes that may be held.
pub(super) const DISSECTOR: Dissector = Dissector::new(Protocol::OpenFt);

/// The start of the header's name.
pub(super) const HTTP_HEADER: &[u8; 8] = b"X-Openft";

#[cfg(test)]
mod tests {
    use crate::abi::protocol::{Confidence, Protocol};
    use crate::dissect::testing::tcp;

    #[test]
    fn downloads_match_by_their_header() {
        let request = "GET /share/a%20song.mp3 HTTP/1.1\r\nX-OpenftAlias: someone\r\nX-OpenftMode: upload\r\n\r\n";
        assert_eq!(tcp(request), Some((Protocol::OpenFt, Confidence::Signature)));
        assert_eq!(tcp("GET /X-OpenftAlias: HTTP/1.1\r\nHost: example.org\r\n\r\n"), None);
        assert_eq!(tcp("GET /a HTTP/1.1\r\nX-OpenID: someone\r\n\r\n"), None);
        // OpenFaaS, as Go spells its headers.
        assert_eq!(tcp("GET /function/figlet HTTP/1.1\r\nHost: a\r\nX-Openfaas-Call-Id: 5\r\n\r\n"), None);
    }
}
