//! IPv4 frames: Ethernet, addresses, ports, payload. Checksums are zero; the program does not read them.

/// An address and a port.
pub(crate) type End = ([u8; 4], u16);

/// First bytes of the BitTorrent handshake (BEP 3).
pub(crate) const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0";
/// Opens a connection (RFC 9293 section 3.1).
pub(crate) const SYN: u8 = 0x02;
/// Data.
pub(crate) const PSH_ACK: u8 = 0x18;

/// A TCP segment.
pub(crate) fn tcp(source: End, destination: End, flags: u8, payload: &[u8]) -> Vec<u8> {
    let header = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
    ip(6, source, destination, &header, payload)
}

/// A UDP datagram.
pub(crate) fn udp(source: End, destination: End, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16 + 8).to_be_bytes();
    ip(17, source, destination, &[high, low, 0, 0], payload)
}

fn ip(protocol: u8, source: End, destination: End, transport: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((24 + transport.len() as u16 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(source.0);
    frame.extend(destination.0);
    frame.extend(source.1.to_be_bytes());
    frame.extend(destination.1.to_be_bytes());
    frame.extend(transport);
    frame.extend(payload);
    frame
}
