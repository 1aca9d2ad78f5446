use monitor_common::store::Inspection;
use peertally::datapath::{host::*, object::*, test_run::*};
fn main() {
    let pools = vec!["0.0.0.0/0".parse().unwrap(), "::/0/64".parse().unwrap()];
    let options = LoadOptions {
        sizes: TableSizes { flows: 1 << 12, tallies: 1 << 12 },
        pools,
        inspection: Inspection::Framing,
        seed: None,
        replaying: std::env::args().nth(1).is_some(),
        pin_folder: None,
        log_level: 0,
        interfaces: vec![1],
    };
    match LoadedObject::load(&options) {
        Err(error) => {
            let mut e: Option<&dyn std::error::Error> = Some(&error);
            while let Some(x) = e {
                let s = format!("{x}");
                let n = s.len();
                println!("{} ... {}", &s[..n.min(2000)], &s[n.saturating_sub(3000)..]);
                e = x.source();
            }
        }
        Ok(mut object) => {
            let info = object.program().unwrap().info().unwrap();
            println!("verified {:?} jited {}", info.verified_instruction_count(), info.size_jitted());
        }
    }
    let _ = |t: TestRunner| t;
}
