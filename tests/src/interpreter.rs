//! Runs the XDP program of an object instruction by instruction, to count what one packet executes.
//!
//! Supports the instructions on the path of a settled flow and of a transit packet: ALU, jumps, loads and stores,
//! atomics, calls within the object, lookups in array maps, readings of the tick count. Anything else, such as another
//! kernel function, ends the run with an error: it is not on those paths. Every access is checked against the memory
//! that exists, so nothing here needs rights or unsafe code. Instruction set: RFC 9669.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::{Map, Object, generated::bpf_insn};

/// `XDP_PASS` of `enum xdp_action` (include/uapi/linux/bpf.h).
pub const XDP_PASS: u64 = 2;

/// Modes of loads and stores: of memory as it is, and atomic (RFC 9669 section 5).
const MEM: u8 = 3;
const ATOMIC: u8 = 6;
/// `BPF_MAP_TYPE_ARRAY` and `BPF_MAP_TYPE_PERCPU_ARRAY` (include/uapi/linux/bpf.h).
const ARRAYS: [u32; 2] = [2, 6];
/// The kernel function `bpf_map_lookup_elem` (include/uapi/linux/bpf.h, `enum bpf_func_id`).
const MAP_LOOKUP: i32 = 1;
/// The kernel function `bpf_jiffies64`.
const JIFFIES: i32 = 118;
/// Memory regions are this far apart, so that no offset leads from one into another.
const REGION: u64 = 1 << 40;
/// Bytes of stack of one call (include/linux/filter.h, `MAX_BPF_STACK`).
const STACK_BYTES: usize = 512;
/// Calls within calls (include/linux/bpf_verifier.h, `MAX_CALL_FRAMES`).
const MAX_CALLS: usize = 8;
/// More than any packet executes: a loop without end is a fault of the interpreter.
const MAX_INSTRUCTIONS: u64 = 1_000_000;

/// Memory that the program may reach.
#[derive(Debug, Default)]
struct Memory(Vec<Vec<u8>>);

impl Memory {
    fn add(&mut self, bytes: Vec<u8>) -> u64 {
        self.0.push(bytes);
        self.0.len() as u64 * REGION
    }

    fn at(&mut self, address: u64, len: usize) -> Result<&mut [u8]> {
        let (region, offset) = ((address / REGION).wrapping_sub(1) as usize, (address % REGION) as usize);
        let bytes = self.0.get_mut(region).with_context(|| format!("no memory at {address:#x}"))?;
        bytes.get_mut(offset..offset + len).with_context(|| format!("{len} bytes at {address:#x} are out of bounds"))
    }

    fn load(&mut self, address: u64, len: usize) -> Result<u64> {
        let mut word = [0; 8];
        word[..len].copy_from_slice(self.at(address, len)?);
        Ok(u64::from_le_bytes(word))
    }

    fn store(&mut self, address: u64, len: usize, value: u64) -> Result<()> {
        self.at(address, len)?.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }
}

/// An array map.
#[derive(Debug)]
struct Array {
    base: u64,
    value_bytes: u64,
    entries: u64,
}

/// Result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The program's answer.
    pub verdict: u64,
    /// Instructions executed; a 64-bit constant counts as one.
    pub instructions: u64,
    /// Lookups in maps.
    pub lookups: u64,
    /// Readings of the kernel's tick count.
    pub tick_readings: u64,
}

/// A program with its array maps, which start as zeros.
#[derive(Debug)]
pub struct Interpreter {
    program: Vec<bpf_insn>,
    arrays: HashMap<i32, Array>,
    numbers: HashMap<String, i32>,
    memory: Memory,
}

impl Interpreter {
    /// A program of an object.
    ///
    /// # Errors
    /// When the object cannot be read or has no such program.
    pub fn new(object: &[u8], program: &str) -> Result<Self> {
        let mut object = Object::parse(object).context("cannot read the object")?;
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps: Vec<(String, Map)> = object.maps.iter().map(|(name, map)| (name.clone(), map.clone())).collect();
        let numbered = maps.iter().enumerate().map(|(index, (name, map))| (name.as_str(), index as i32, map));
        object.relocate_maps(numbered, &sections).context("cannot relocate the maps")?;
        object.relocate_calls(&sections).context("cannot relocate the calls")?;
        let key = object.programs.get(program).with_context(|| format!("no program {program}"))?.function_key();
        let program = object.functions.get(&key).context("the program has no code")?.instructions.clone();
        let (mut memory, mut arrays, mut numbers) = (Memory::default(), HashMap::new(), HashMap::new());
        for (index, (name, map)) in maps.into_iter().enumerate() {
            numbers.insert(name, index as i32);
            if ARRAYS.contains(&map.map_type()) {
                let (value_bytes, entries) = (u64::from(map.value_size()), u64::from(map.max_entries()));
                let mut bytes = map.data().to_vec();
                bytes.resize((value_bytes * entries) as usize, 0);
                arrays.insert(index as i32, Array { base: memory.add(bytes), value_bytes, entries });
            }
        }
        Ok(Self { program, arrays, numbers, memory })
    }

    /// Writes a 64-bit word into an array map, at a byte offset from its start.
    ///
    /// # Errors
    /// When there is no such array, or the word is outside of it.
    pub fn write(&mut self, map: &str, offset: usize, word: u64) -> Result<()> {
        let base = self.array(map)?.base;
        self.memory.store(base + offset as u64, 8, word)
    }

    /// Reads a 64-bit word of an array map.
    ///
    /// # Errors
    /// When there is no such array, or the word is outside of it.
    pub fn read(&mut self, map: &str, offset: usize) -> Result<u64> {
        let base = self.array(map)?.base;
        self.memory.load(base + offset as u64, 8)
    }

    fn array(&self, map: &str) -> Result<&Array> {
        let number = self.numbers.get(map).with_context(|| format!("no map {map}"))?;
        self.arrays.get(number).with_context(|| format!("{map} is no array"))
    }

    /// Runs the program on a frame that arrived on an interface.
    ///
    /// # Errors
    /// When the program does something that the interpreter does not know, or that the kernel would not allow.
    pub fn run(&mut self, frame: &[u8], interface: u32) -> Result<Executed> {
        let regions = self.memory.0.len();
        let start = self.memory.add(frame.to_vec());
        // `struct xdp_md`; the verifier turns loads of its pointers into 64-bit ones, and so does `load`.
        let context = self.memory.add(vec![0; 24]);
        let mut run = Run {
            registers: [0; 11],
            calls: Vec::new(),
            at: 0,
            executed: Executed { verdict: 0, instructions: 0, lookups: 0, tick_readings: 0 },
            context: Context { address: context, start, end: start + frame.len() as u64, interface },
        };
        run.registers[1] = context;
        run.registers[10] = self.memory.add(vec![0; STACK_BYTES]) + STACK_BYTES as u64;
        let result = self.execute(&mut run);
        self.memory.0.truncate(regions);
        result.with_context(|| format!("at instruction {}", run.at))?;
        Ok(run.executed)
    }

    fn execute(&mut self, run: &mut Run) -> Result<()> {
        loop {
            let instruction = *self.program.get(run.at).context("ran off the program's end")?;
            run.at += 1;
            run.executed.instructions += 1;
            ensure!(run.executed.instructions < MAX_INSTRUCTIONS, "the program does not end");
            match instruction.code & 7 {
                0 => self.constant(run, instruction)?,
                1 => self.load(run, instruction)?,
                2 | 3 => self.store(run, instruction)?,
                4 | 7 => run.compute(instruction)?,
                _ if instruction.code == 0x85 => self.call(run, instruction)?,
                _ if instruction.code == 0x95 => {
                    if run.end_call() {
                        return Ok(());
                    }
                }
                _ => run.jump(instruction)?,
            }
        }
    }

    /// A 64-bit constant, or the address of a map or of a value in one.
    fn constant(&self, run: &mut Run, low: bpf_insn) -> Result<()> {
        ensure!(low.code == 0x18, "unknown instruction {:#x}", low.code);
        let high = self.program.get(run.at).context("half a constant")?.imm;
        run.at += 1;
        *run.destination(low)? = match low.src_reg() {
            0 => u64::from(low.imm as u32) | u64::from(high as u32) << 32,
            1 => low.imm as u64,
            2 => self.arrays.get(&low.imm).context("a value of a map that is no array")?.base + u64::from(high as u32),
            other => bail!("unknown kind of constant {other}"),
        };
        Ok(())
    }

    fn load(&mut self, run: &mut Run, instruction: bpf_insn) -> Result<()> {
        ensure!(instruction.code >> 5 == MEM, "unknown load {:#x}", instruction.code);
        let address = run.source(instruction)?.wrapping_add_signed(i64::from(instruction.off));
        let width = width(instruction);
        let value = match (address.wrapping_sub(run.context.address), width) {
            (0, 4) => run.context.start,
            (4, 4) => run.context.end,
            (12, 4) => u64::from(run.context.interface),
            (0..24, _) => bail!("{width} bytes of the context at {address:#x} are not known"),
            _ => self.memory.load(address, width)?,
        };
        *run.destination(instruction)? = value;
        Ok(())
    }

    fn store(&mut self, run: &mut Run, instruction: bpf_insn) -> Result<()> {
        let address = run.destination(instruction)?.wrapping_add_signed(i64::from(instruction.off));
        let width = width(instruction);
        match (instruction.code & 7, instruction.code >> 5) {
            (2, MEM) => self.memory.store(address, width, i64::from(instruction.imm) as u64),
            (3, MEM) => self.memory.store(address, width, run.source(instruction)?),
            (3, ATOMIC) if width >= 4 => self.atomic(run, instruction, address, width),
            _ => bail!("unknown store {:#x}", instruction.code),
        }
    }

    /// RFC 9669 section 5.3. An operation on 4 bytes compares 4 bytes, and returns the old ones zero-extended.
    fn atomic(&mut self, run: &mut Run, instruction: bpf_insn, address: u64, width: usize) -> Result<()> {
        let (old, operand) = (self.memory.load(address, width)?, run.source(instruction)?);
        let expected = if width == 4 { u64::from(run.registers[0] as u32) } else { run.registers[0] };
        let new = match instruction.imm {
            0x00 | 0x01 => old.wrapping_add(operand),
            0x40 | 0x41 => old | operand,
            0x50 | 0x51 => old & operand,
            0xa0 | 0xa1 => old ^ operand,
            // Exchange, and compare and exchange: both always return the old value.
            0xe1 => operand,
            0xf1 if old == expected => operand,
            0xf1 => old,
            other => bail!("unknown atomic operation {other:#x}"),
        };
        self.memory.store(address, width, new)?;
        match instruction.imm {
            0xf1 => run.registers[0] = old,
            imm if imm & 1 != 0 => *run.register(instruction.src_reg())? = old,
            _ => {}
        }
        Ok(())
    }

    fn call(&mut self, run: &mut Run, instruction: bpf_insn) -> Result<()> {
        if instruction.src_reg() == 1 {
            ensure!(run.calls.len() + 1 < MAX_CALLS, "too many calls within calls");
            let saved = [6, 7, 8, 9, 10].map(|register: usize| run.registers[register]);
            run.calls.push((run.at, saved));
            run.at = run.at.wrapping_add_signed(instruction.imm as isize);
            run.registers[10] = self.memory.add(vec![0; STACK_BYTES]) + STACK_BYTES as u64;
            return Ok(());
        }
        ensure!(instruction.src_reg() == 0, "unknown kind of call {}", instruction.src_reg());
        if instruction.imm == JIFFIES {
            // Time stands still.
            run.executed.tick_readings += 1;
            run.registers[0] = 0;
            return Ok(());
        }
        ensure!(instruction.imm == MAP_LOOKUP, "kernel function {} is not on a settled path", instruction.imm);
        let array = self.arrays.get(&(run.registers[1] as i32)).context("a lookup in a map that is no array")?;
        let index = self.memory.load(run.registers[2], 4)?;
        run.executed.lookups += 1;
        run.registers[0] = if index < array.entries { array.base + index * array.value_bytes } else { 0 };
        Ok(())
    }
}

/// Bytes that a load or store moves.
fn width(instruction: bpf_insn) -> usize {
    match instruction.code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

#[derive(Debug)]
struct Context {
    address: u64,
    start: u64,
    end: u64,
    interface: u32,
}

#[derive(Debug)]
struct Run {
    registers: [u64; 11],
    calls: Vec<(usize, [u64; 5])>,
    at: usize,
    executed: Executed,
    context: Context,
}

impl Run {
    fn destination(&mut self, instruction: bpf_insn) -> Result<&mut u64> {
        self.register(instruction.dst_reg())
    }

    fn register(&mut self, number: u8) -> Result<&mut u64> {
        self.registers.get_mut(usize::from(number)).context("no such register")
    }

    fn source(&self, instruction: bpf_insn) -> Result<u64> {
        self.registers.get(usize::from(instruction.src_reg())).copied().context("no such register")
    }

    /// Whether that was the program's own end.
    fn end_call(&mut self) -> bool {
        let Some((at, saved)) = self.calls.pop() else {
            self.executed.verdict = self.registers[0];
            return true;
        };
        self.at = at;
        self.registers[6..].copy_from_slice(&saved);
        false
    }

    /// The second operand of an ALU instruction or a jump, sign-extended where it is a constant.
    fn operand(&self, instruction: bpf_insn) -> Result<u64> {
        if instruction.code & 8 == 0 { Ok(i64::from(instruction.imm) as u64) } else { self.source(instruction) }
    }

    /// RFC 9669 section 4.1 and 4.2.
    fn compute(&mut self, instruction: bpf_insn) -> Result<()> {
        let wide = instruction.code & 7 == 7;
        let operand = self.operand(instruction)?;
        let destination = self.destination(instruction)?;
        let (a, b) = if wide { (*destination, operand) } else { (*destination as u32 as u64, operand as u32 as u64) };
        let bits = if wide { 63 } else { 31 };
        let result = match instruction.code >> 4 {
            0x0 => a.wrapping_add(b),
            0x1 => a.wrapping_sub(b),
            0x2 => a.wrapping_mul(b),
            0x3 if instruction.off == 0 => a.checked_div(b).unwrap_or(0),
            0x4 => a | b,
            0x5 => a & b,
            0x6 => a << (b & bits),
            0x7 => a >> (b & bits),
            0x8 => a.wrapping_neg(),
            0x9 if instruction.off == 0 => a.checked_rem(b).unwrap_or(a),
            0xa => a ^ b,
            0xb if instruction.off == 0 => b,
            0xc if wide => ((a as i64) >> (b & bits)) as u64,
            0xc => ((a as i32) >> (b & bits)) as u64,
            0xd => swapped(*destination, instruction)?,
            _ => bail!("unknown operation {:#x}", instruction.code),
        };
        let whole = wide || instruction.code >> 4 == 0xd;
        *destination = if whole { result } else { u64::from(result as u32) };
        Ok(())
    }

    /// RFC 9669 section 4.3.
    fn jump(&mut self, instruction: bpf_insn) -> Result<()> {
        let wide = instruction.code & 7 == 5;
        let (a, b) = (*self.destination(instruction)?, self.operand(instruction)?);
        let (a, b) = if wide { (a, b) } else { (a as u32 as u64, b as u32 as u64) };
        let signed = |value: u64| if wide { value as i64 } else { i64::from(value as i32) };
        let taken = match instruction.code >> 4 {
            0x0 if wide => true,
            0x1 => a == b,
            0x2 => a > b,
            0x3 => a >= b,
            0x4 => a & b != 0,
            0x5 => a != b,
            0x6 => signed(a) > signed(b),
            0x7 => signed(a) >= signed(b),
            0xa => a < b,
            0xb => a <= b,
            0xc => signed(a) < signed(b),
            0xd => signed(a) <= signed(b),
            _ => bail!("unknown jump {:#x}", instruction.code),
        };
        if taken {
            self.at = self.at.wrapping_add_signed(isize::from(instruction.off));
        }
        Ok(())
    }
}

/// Byte swaps of a little-endian program (RFC 9669 section 4.2): to little-endian they only cut the value off.
fn swapped(value: u64, instruction: bpf_insn) -> Result<u64> {
    let to_big = instruction.code & 8 != 0 || instruction.code & 7 == 7;
    Ok(match (instruction.imm, to_big) {
        (16, true) => u64::from((value as u16).swap_bytes()),
        (32, true) => u64::from((value as u32).swap_bytes()),
        (64, true) => value.swap_bytes(),
        (16, false) => u64::from(value as u16),
        (32, false) => u64::from(value as u32),
        (64, false) => value,
        (bits, _) => bail!("unknown byte swap of {bits} bits"),
    })
}
