//! Single instructions, with codes from RFC 9669.

use super::*;

/// Names of registers in the rows below.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R10: u8 = 10;
const EXIT: bpf_insn = insn(0x95, 0, 0, 0, 0);

/// An instruction: code, destination, source, offset, constant.
const fn insn(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: aya_obj::generated::__BindgenBitfieldUnit::new([to | from << 4]),
        off,
        imm,
    }
}

/// A register set to 64 bits.
fn set(register: u8, value: u64) -> [bpf_insn; 2] {
    [insn(0x18, register, 0, 0, value as i32), insn(0, 0, 0, 0, (value >> 32) as i32)]
}

/// The result in register 0 of a program that ends after these instructions.
fn run(parts: &[&[bpf_insn]]) -> Result<u64> {
    let program = [&parts.concat()[..], &[EXIT]].concat();
    let mut interpreter =
        Interpreter { program, arrays: HashMap::new(), numbers: HashMap::new(), memory: Memory::default() };
    Ok(interpreter.run(&[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99], 7)?.verdict)
}

/// The result of one instruction on registers 0 and 1.
fn with(instruction: bpf_insn, a: u64, b: u64) -> u64 {
    run(&[&set(R0, a), &set(R1, b), &[instruction]]).expect("a known instruction")
}

/// The reason for which a program of this instruction stops.
fn refused(instruction: bpf_insn) -> String {
    format!("{:#}", run(&[&set(R1, 0), &[instruction]]).expect_err("an unknown instruction"))
}

#[test]
fn arithmetic_of_64_bits_sign_extends_its_constant() {
    for (code, a, imm, expected) in [
        (0x07, 1, -2, u64::MAX),
        (0x17, 0, 1, u64::MAX),
        (0x27, 1 << 40, -1, (1_u64 << 40).wrapping_neg()),
        // Division and remainder are unsigned: -1 is the highest number.
        (0x37, u64::MAX, -1, 1),
        (0x37, 5, 0, 0),
        (0x97, 5, 0, 5),
        (0x97, 7, 4, 3),
        (0x47, 0, -16, !15),
        (0x57, u64::MAX, -16, !15),
        (0xa7, 0, -1, u64::MAX),
        (0x87, 1, 0, u64::MAX),
        (0xb7, 9, -1, u64::MAX),
    ] {
        assert_eq!(with(insn(code, R0, 0, 0, imm), a, 0), expected, "{code:#x}");
    }
}

#[test]
fn arithmetic_of_32_bits_clears_the_upper_half() {
    let high = 0xffff_ffff_0000_0000;
    for (code, a, b, expected) in [
        (0x0c, high | 0xffff_ffff, 2, 1),
        (0x1c, high, 1, 0xffff_ffff),
        (0x2c, 0x8000_0000, 2, 0),
        (0x3c, high | 6, high | 4, 1),
        (0x3c, high | 6, high, 0),
        (0x9c, high | 6, high, 6),
        (0x4c, high | 1, high | 2, 3),
        (0xac, high | 1, 0, 1),
        (0xbc, 0, high | 5, 5),
        (0x84, 1, 0, 0xffff_ffff),
    ] {
        assert_eq!(with(insn(code, R0, R1, 0, 0), a, b), expected, "{code:#x}");
    }
}

#[test]
fn shifts_take_as_many_bits_as_their_width_needs() {
    for (code, a, b, expected) in [
        (0x6f, 1, 65, 2),
        (0x7f, 1 << 63, 127, 1),
        (0xcf, 1 << 63, 63, u64::MAX),
        (0xcf, 1 << 62, 62, 1),
        (0x6c, 0x8000_0001, 33, 2),
        (0x7c, 0xffff_ffff_8000_0000, 63, 1),
        (0xcc, 0x8000_0000, 4, 0xf800_0000),
        (0xcc, 0xffff_ffff_4000_0000, 30, 1),
    ] {
        assert_eq!(with(insn(code, R0, R1, 0, 0), a, b), expected, "{code:#x} by {b}");
    }
}

#[test]
fn byte_swaps_follow_their_width() {
    let value = 0x1122_3344_5566_7788;
    for (code, bits, expected) in [
        (0xd4, 16, 0x7788),
        (0xd4, 32, 0x5566_7788),
        (0xd4, 64, value),
        (0xdc, 16, 0x8877),
        (0xdc, 32, 0x8877_6655),
        (0xdc, 64, 0x8877_6655_4433_2211),
        (0xd7, 16, 0x8877),
        (0xd7, 32, 0x8877_6655),
        (0xd7, 64, 0x8877_6655_4433_2211),
    ] {
        assert_eq!(with(insn(code, R0, 0, 0, bits), value, 0), expected, "{code:#x}, {bits} bits");
    }
}

#[test]
fn jumps_compare_with_the_sign_and_the_width_of_their_code() {
    let negative = -1_i64 as u64;
    for (code, a, b, expected) in [
        (0x05, 0, 0, true),
        (0x1d, 5, 5, true),
        (0x5d, 5, 5, false),
        (0x2d, negative, 1, true),
        (0x3d, 1, 1, true),
        (0xad, negative, 1, false),
        (0xbd, 1, 1, true),
        (0x4d, 6, 4, true),
        (0x4d, 6, 1, false),
        (0x6d, negative, 1, false),
        (0x7d, 1, negative, true),
        (0xcd, negative, 1, true),
        (0xdd, 1, negative, false),
        // Of 32 bits: the upper halves differ, and bit 31 is the sign.
        (0x1e, 1 << 32 | 5, 5, true),
        (0x2e, 0x8000_0000, 1, true),
        (0x6e, 0x8000_0000, 1, false),
        (0xce, 0x8000_0000, 1, true),
        (0xde, 1, 0x8000_0000, false),
    ] {
        // The jump passes over the constant 0.
        let jump = [insn(code, R0, R1, 2, 0), insn(0xb7, R0, 0, 0, 0), EXIT, insn(0xb7, R0, 0, 0, 1)];
        let taken = run(&[&set(R0, a), &set(R1, b), &jump]).expect("known jumps");
        assert_eq!(taken == 1, expected, "{code:#x} with {a:#x} and {b:#x}");
    }
    let constant = [insn(0x65, R0, 0, 2, -1), insn(0xb7, R0, 0, 0, 0), EXIT, insn(0xb7, R0, 0, 0, 1)];
    assert_eq!(run(&[&set(R0, 0), &constant]).expect("a known jump"), 1, "0 is more than -1");
}

#[test]
fn loads_and_stores_move_their_width() {
    let all_ones = insn(0x7a, R10, 0, -8, -1);
    for (code, expected) in [
        (0x72, 0xffff_ffff_ffff_ff02),
        (0x6a, 0xffff_ffff_ffff_0102),
        (0x62, 0xffff_ffff_0001_0102),
        (0x7a, 0x0001_0102),
    ] {
        let program = [all_ones, insn(code, R10, 0, -8, 0x0001_0102), insn(0x79, R0, R10, -8, 0)];
        assert_eq!(run(&[&program]).expect("memory of the stack"), expected, "{code:#x}");
    }
    for (code, expected) in [(0x71, 0xff), (0x69, 0xffff), (0x61, 0xffff_ffff), (0x79, u64::MAX)] {
        assert_eq!(
            run(&[&[all_ones, insn(code, R0, R10, -8, 0)]]).expect("memory of the stack"),
            expected,
            "{code:#x}"
        );
    }
}

#[test]
fn the_context_names_the_frame_and_its_interface() {
    let first = [insn(0x61, R2, R1, 0, 0), insn(0x69, R0, R2, 0, 0)];
    assert_eq!(run(&[&first]).expect("the start of the frame"), 0x2211);
    let last = [insn(0x61, R2, R1, 4, 0), insn(0x71, R0, R2, -1, 0)];
    assert_eq!(run(&[&last]).expect("the end of the frame"), 0x99);
    assert_eq!(run(&[&[insn(0x61, R0, R1, 12, 0)]]).expect("the interface"), 7);
    let after = [insn(0x61, R2, R1, 4, 0), insn(0x71, R0, R2, 0, 0)];
    assert!(format!("{:#}", run(&[&after]).expect_err("after the frame")).contains("out of bounds"));
    for unknown in [insn(0x79, R0, R1, 0, 0), insn(0x61, R0, R1, 8, 0)] {
        assert!(format!("{:#}", run(&[&[unknown]]).expect_err("another field")).contains("of the context"));
    }
}

/// Old value in register 1 or 0 and new value in memory, after an atomic operation with register 1 on `memory`.
fn atomic(code: u8, imm: i32, memory: u64, r0: u64, r1: u64) -> (u64, u64) {
    let start = [&set(R2, memory)[..], &[insn(0x7b, R10, R2, -8, 0)], &set(R0, r0), &set(R1, r1)].concat();
    let operation = insn(code, R10, R1, -8, imm);
    let old = if imm == 0xf1 { R0 } else { R1 };
    let result = |register| run(&[&start, &[operation, insn(0x79, R2, R10, -8, 0), insn(0xbf, R0, register, 0, 0)]]);
    (result(old).expect("a known operation"), result(R2).expect("a known operation"))
}

#[test]
fn atomic_operations_of_8_and_4_bytes() {
    let high = 0xaaaa_aaaa_0000_0000;
    for (code, imm, memory, r0, r1, expected) in [
        (0xdb, 0x00, 1 << 40, 0, 2, (2, 1 << 40 | 2)),
        (0xdb, 0x01, u64::MAX, 0, 2, (u64::MAX, 1)),
        (0xdb, 0x41, 4, 0, 1, (4, 5)),
        (0xdb, 0x51, 6, 0, 3, (6, 2)),
        (0xdb, 0xa1, 6, 0, 3, (6, 5)),
        (0xdb, 0xe1, 6, 0, 3, (6, 3)),
        (0xdb, 0xf1, 6, 6, 3, (6, 3)),
        (0xdb, 0xf1, 6, 7, 3, (6, 6)),
        // The other 4 bytes stay, and the old value has no sign.
        (0xc3, 0x01, high | 0xffff_ffff, 0, u64::MAX, (0xffff_ffff, high | 0xffff_fffe)),
        (0xc3, 0xe1, high | 0x8000_0000, 0, 1, (0x8000_0000, high | 1)),
        (0xc3, 0xf1, high | 6, 1 << 32 | 6, 3, (6, high | 3)),
        (0xc3, 0xf1, high | 6, 7, 3, (6, high | 6)),
    ] {
        assert_eq!(atomic(code, imm, memory, r0, r1), expected, "{code:#x}, {imm:#x}");
    }
}

#[test]
fn a_call_keeps_the_registers_of_its_caller() {
    // The function overwrites its stack and registers 6 and 0.
    let program = [
        insn(0xb7, 6, 0, 0, 5),
        insn(0x7a, R10, 0, -8, 2),
        insn(0x85, 0, 1, 0, 3),
        insn(0x79, R1, R10, -8, 0),
        insn(0x0f, R0, 6, 0, 0),
        insn(0x05, 0, 0, 4, 0),
        insn(0x7a, R10, 0, -8, 9),
        insn(0xb7, 6, 0, 0, 100),
        insn(0xb7, R0, 0, 0, 10),
        EXIT,
        insn(0x0f, R0, R1, 0, 0),
    ];
    assert_eq!(run(&[&program]).expect("a call"), 10 + 5 + 2);
    let error = run(&[&[insn(0x85, 0, 1, 0, -1)]]).expect_err("calls itself");
    assert!(format!("{error:#}").contains("too many calls"), "{error:#}");
}

#[test]
fn unknown_instructions_end_the_run() {
    for (instruction, reason) in [
        (insn(0x20, 0, 0, 0, 0), "unknown instruction 0x20"),
        (insn(0x18, R0, 3, 0, 0), "unknown kind of constant 3"),
        (insn(0x18, R0, 2, 0, 0), "a map that is no array"),
        // A load with sign extension, stores of another mode, atomics of 1 byte.
        (insn(0x91, R0, R10, -8, 0), "unknown load 0x91"),
        (insn(0x52, R10, 0, -8, 0), "unknown store 0x52"),
        (insn(0xd3, R10, R1, -8, 0), "unknown store 0xd3"),
        (insn(0xdb, R10, R1, -8, 0xe0), "unknown atomic operation 0xe0"),
        (insn(0xdb, R10, R1, -8, 0xf0), "unknown atomic operation 0xf0"),
        (insn(0xdb, R10, R1, -8, 0x10), "unknown atomic operation 0x10"),
        // Signed division and a move with sign extension.
        (insn(0x37, R0, 0, 1, 3), "unknown operation 0x37"),
        (insn(0x9f, R0, R1, 1, 0), "unknown operation 0x9f"),
        (insn(0xbf, R0, R1, 8, 0), "unknown operation 0xbf"),
        (insn(0xe7, R0, 0, 0, 0), "unknown operation 0xe7"),
        (insn(0xd7, R0, 0, 0, 8), "unknown byte swap of 8 bits"),
        (insn(0x06, 0, 0, 0, 1), "unknown jump 0x6"),
        (insn(0x8d, R1, 0, 0, 0), "unknown jump 0x8d"),
        (insn(0xe5, R0, 0, 0, 0), "unknown jump 0xe5"),
        (insn(0x85, 0, 0, 0, 5), "kernel function 5"),
        (insn(0x85, 0, 2, 0, 1), "unknown kind of call 2"),
        (insn(0x85, 0, 0, 0, MAP_LOOKUP), "a lookup in a map that is no array"),
        (insn(0xb7, 11, 0, 0, 0), "no such register"),
        (insn(0x7b, 11, R1, 0, 0), "no such register"),
        (insn(0x05, 0, 0, -1, 0), "the program does not end"),
        (insn(0x05, 0, 0, 9, 0), "ran off the program's end"),
        (insn(0x79, R0, R1, 0, 0), "no memory at 0x0"),
    ] {
        let found = refused(instruction);
        assert!(found.contains(reason), "{reason}: {found}");
    }
}
