//! Every command block of README.md and docs/development.md is run, as it stands, in a sandbox; or is named as run
//! elsewhere.
//!
//! A block's fence says how: all blocks with `sh sandbox` run here one after the other, as a reader would type them, in
//! mount, process and network namespaces with empty folders where commands install to, with interfaces `eth0` (access)
//! and `eth1` (core), and with `/tmp/capture.pcap`; `sh elsewhere=FILE` is run by that file, which must contain every
//! command of the block; `sh package` is run by `cargo xtask dist --test` in fresh systems. A `sh` fence without any of
//! them fails, so that no command goes untested.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Pages with commands. The first one installs what the second one uses.
const PAGES: [&str; 2] = ["docs/development.md", "README.md"];

/// How long all commands may take; one of them compiles the agent.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs before a block, in its namespaces: what the commands write to is memory, and gone afterwards.
const PROLOGUE: &str = r#"
set -eu
mount --make-rprivate /
# A checkout below /tmp must stay visible: then only the capture is put there, and taken away again.
case "$SANDBOX/" in
/tmp/*) trap 'rm -f /tmp/capture.pcap' EXIT ;;
*) mount -t tmpfs tmpfs /tmp ;;
esac
for folder in /etc/peertally /usr/local/bin /usr/local/lib /var/lib/peertally /run/peertally /etc/systemd/system; do
    test -d "$folder" || { mkdir -p "$folder" && echo "$folder" >> "$MADE"; }
    mount -t tmpfs -o mode=755 tmpfs "$folder"
done
mount -t sysfs sysfs /sys
mkdir -p /sys/fs/bpf && mount -t bpf bpf /sys/fs/bpf
ip link set lo up
ip link add eth0 type veth peer name far0
ip link add eth1 type veth peer name far1
for name in eth0 eth1 far0 far1; do ip link set "$name" up; done
cp "$CAPTURE" /tmp/capture.pcap
"#;

/// A fenced block of the README.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Line of its fence, from 1.
    line: usize,
    /// Words after `sh`.
    how: String,
    /// The commands.
    commands: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    let mut other = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            if let Some(block) = open.take() {
                found.push(block);
            } else if other {
                other = false;
            } else if let Some(how) =
                info.trim().strip_prefix("sh").filter(|rest| rest.is_empty() || rest.starts_with(' '))
            {
                open = Some(Block { line: index + 1, how: how.trim().to_owned(), commands: String::new() });
            } else {
                other = true;
            }
        } else if let Some(block) = &mut open {
            block.commands.push_str(line);
            block.commands.push('\n');
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

#[test]
fn every_command_block_runs() {
    let mut script = String::new();
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let blocks = blocks(&text);
        assert!(!blocks.is_empty(), "{page} has no command block");
        blocks.iter().for_each(|block| add(&mut script, &format!("{page}:{}", block.line), block));
    }
    run(&script);
}

/// Adds a block to the script of the sandbox, or checks that it is run elsewhere.
fn add(script: &mut String, place: &str, block: &Block) {
    if let Some(file) = block.how.strip_prefix("elsewhere=") {
        let content = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{place}: {file}: {error}"));
        for command in block.commands.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            assert!(content.contains(command.trim()), "{place}: {file} does not run `{command}`");
        }
    } else if block.how == "package" {
        // Read and run by this file.
        let runner = fs::read_to_string(root().join("xtask/src/dist/installed.rs")).expect("the test of packages");
        assert!(runner.contains("```sh package"), "{place}: nothing runs the blocks of packages");
    } else if block.how == "sandbox" {
        script.push_str(&format!("echo '=== {place}'\n{}", block.commands));
    } else {
        panic!("{place}: a `sh` block must say how it is tested: `sandbox`, `package` or `elsewhere=FILE`");
    }
}

/// Runs commands in the sandbox, in the repository's folder. Everything that they start ends with them.
fn run(commands: &str) {
    if !peertally_tests::kernel::may_use_kernel("README.md").expect("rights") {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("readme-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("scratch folder");
    let made = folder.join("made");
    fs::write(&made, "").expect("list of folders");
    let script = folder.join("script");
    fs::write(&script, format!("{PROLOGUE}cd \"$SANDBOX\"\nset -x\n{commands}")).expect("script");
    let capture = folder.join("capture.pcap");
    fs::write(&capture, pcap()).expect("capture");
    let log = fs::File::create(folder.join("log")).expect("log");
    let mut child = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"])
        .arg(&script)
        .env("SANDBOX", root())
        // The sandbox has no way out; what the commands compile was downloaded to build this test.
        .env("CARGO_NET_OFFLINE", "true")
        .env("MADE", &made)
        .env("CAPTURE", &capture)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log"))
        .stderr(log)
        .spawn()
        .expect("unshare starts");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break Some(status);
        }
        if started.elapsed() > LIMIT {
            child.kill().expect("kill");
            child.wait().expect("wait");
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = fs::read_to_string(folder.join("log")).unwrap_or_default();
    for name in fs::read_to_string(&made).unwrap_or_default().lines() {
        // Fails when somebody put something there meanwhile, and then it stays.
        drop(fs::remove_dir(name));
    }
    fs::remove_dir_all(&folder).expect("scratch folder goes");
    match status {
        Some(status) => assert!(status.success(), "{status}\n{output}"),
        None => panic!("still running after {} s\n{output}", LIMIT.as_secs()),
    }
}

/// The frames of the packet table as a capture file (draft-ietf-opsawg-pcap, section 4).
fn pcap() -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_le_bytes());
    }
    for case in peertally_tests::packet_table::cases() {
        let length = u32::try_from(case.frame.len()).expect("a short frame");
        for word in [1, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(case.frame);
    }
    file
}

#[test]
fn fences_are_found() {
    let text = "```sh sandbox\na\n```\n```toml\nsh = 1\n```\n```sh elsewhere=x\nb\nc\n```\n";
    let found = blocks(text);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].how.as_str(), found[0].commands.as_str(), found[0].line), ("sandbox", "a\n", 1));
    assert_eq!((found[1].how.as_str(), found[1].commands.as_str(), found[1].line), ("elsewhere=x", "b\nc\n", 7));
}
