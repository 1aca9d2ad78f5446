//! OpenFT (giFT): downloads.
//!
//! Source: giFT-OpenFT's `ft_transfer.c`, libprotoident. Matched: a GET request whose first header, right behind the request
//! line, is "X-OpenftAlias". Guard: that header; the request line has nothing of its own.

use super::text;
use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// Downloads from peers.
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    (payload.has(0, b"GET /") && text::has_header(payload, b"X-Openf")).then_some(Confidence::Signature)
}

#[cfg(test)]
mod tests {
    use super::super::testing::tcp;
    use crate::protocol::{Confidence, Protocol};

    #[test]
    fn downloads_match_by_their_header() {
        let request = "GET /share/a%20song.mp3 HTTP/1.1\r\nX-OpenftAlias: someone\r\nX-OpenftMode: upload\r\n\r\n";
        assert_eq!(tcp(request), Some((Protocol::OpenFt, Confidence::Signature)));
        assert_eq!(tcp("GET /X-OpenftAlias: HTTP/1.1\r\nHost: example.org\r\n\r\n"), None);
        assert_eq!(tcp("GET /a HTTP/1.1\r\nX-OpenID: someone\r\n\r\n"), None);
    }
}
