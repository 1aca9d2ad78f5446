//! Both engines print equal bytes, except for the engine's name.

use super::support::{ipv4, pcap, run, tcp, udp};

/// Packets of several flows, some skipped, one restarted.
fn sample() -> Vec<u8> {
    let (subscriber, outside) = ([10, 0, 0, 1], [192, 0, 2, 1]);
    let mut handshake = b"\x13BitTorrent protocol".to_vec();
    handshake.resize(68, 7);
    pcap(&[
        ipv4(subscriber, outside, 6, &tcp(50_000, 6881, 0x02, &[])),
        ipv4(outside, subscriber, 6, &tcp(6881, 50_000, 0x12, &[])),
        ipv4(subscriber, outside, 6, &tcp(50_000, 6881, 0x18, &handshake)),
        ipv4(subscriber, outside, 6, &tcp(50_000, 6881, 0x02, &[])),
        ipv4(outside, [198, 51, 100, 1], 17, &udp(1, 2, b"transit")),
        ipv4(outside, subscriber, 1, &[8, 0, 0, 0]),
        [&[0xff; 12][..], &[0x08, 0x06], &[0; 28]].concat(),
        vec![1, 2, 3],
        ipv4(subscriber, outside, 17, &udp(3, 4, &[0; 9_000])),
    ])
}

#[test]
fn both_engines_print_the_same() {
    for format in ["json", "table"] {
        let print = |engine| {
            let arguments = ["--subscribers", "10.0.0.0/8", "--flows", "--format", format, "--engine", engine, "-"];
            run(&arguments, &sample())
        };
        let (host, kernel) = (print("host"), print("kernel"));
        if kernel.code == 77 {
            println!("SKIPPED: both engines: no rights to load the program");
            assert_ne!(std::env::var("PEERTALLY_STRICT").as_deref(), Ok("1"), "strict: a skipped test is a failure");
            return;
        }
        assert_eq!((host.code, kernel.code), (0, 0), "{}", kernel.stderr);
        let renamed = kernel.stdout.replace("\"engine\": \"kernel\"", "\"engine\": \"host\"");
        assert_eq!(renamed.replace("(kernel engine)", "(host engine)"), host.stdout);
    }
}
