//! Map names of earlier builds. The loader knows only the current names, so the bench renames the maps of an older
//! object. Delete this file once a baseline with the current names is blessed.

use anyhow::{Context as _, Result, ensure};

/// Earlier and current names of maps with equal layouts.
const RENAMED: [(&str, &str); 3] =
    [("ENDPOINTS", "PEERS"), ("BEGINNINGS", "REASSEMBLY"), ("SLOT_CACHE", "TALLY_CACHE")];

/// Offsets in the ELF64 header, in a section header and in a symbol (System V ABI, "Object Files").
mod elf {
    pub(super) const SECTION_HEADERS: usize = 40;
    pub(super) const SECTION_COUNT: usize = 60;
    pub(super) const SECTION_NAMES: usize = 62;
    pub(super) const SECTION_HEADER_LEN: usize = 64;
    pub(super) const TYPE: usize = 4;
    pub(super) const OFFSET: usize = 24;
    pub(super) const SIZE: usize = 32;
    pub(super) const LINK: usize = 40;
    pub(super) const SYMBOL_TABLE: u32 = 2;
    pub(super) const SYMBOL_LEN: usize = 24;
}

/// Returns the object with the current map names.
///
/// Renamed symbols get a new string at the end of a copy of the string table. Type information (BTF) still has the old
/// names and would not match, so it loses its section names. The verifier needs none of it for this program.
///
/// # Errors
/// The bytes are no ELF64 object with a symbol table.
pub(crate) fn with_current_map_names(mut object: Vec<u8>) -> Result<Vec<u8>> {
    ensure!(object.starts_with(b"\x7fELF\x02\x01"), "no little-endian ELF64 object");
    let headers = long(&object, elf::SECTION_HEADERS)?;
    let count = usize::from(u16::from_le_bytes(bytes(&object, elf::SECTION_COUNT)?));
    let header = |number: usize| headers + number * elf::SECTION_HEADER_LEN;
    let mut symbols = None;
    for number in 0..count {
        if word(&object, header(number) + elf::TYPE)? == elf::SYMBOL_TABLE {
            symbols = Some(header(number));
        }
    }
    let symbols = symbols.context("no symbol table")?;
    let strings = header(word(&object, symbols + elf::LINK)? as usize);
    let (start, len) = (long(&object, strings + elf::OFFSET)?, long(&object, strings + elf::SIZE)?);
    let mut renamed = false;
    let mut table = object.get(start..start + len).context("a string table outside the file")?.to_vec();
    let (first, size) = (long(&object, symbols + elf::OFFSET)?, long(&object, symbols + elf::SIZE)?);
    for symbol in (first..first + size).step_by(elf::SYMBOL_LEN) {
        let at = word(&object, symbol)? as usize;
        let name = table.get(at..).and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or_default();
        if let Some((_, current)) = RENAMED.iter().find(|(earlier, _)| earlier.as_bytes() == name) {
            object[symbol..symbol + 4].copy_from_slice(&u32::try_from(table.len())?.to_le_bytes());
            table.extend(current.bytes().chain([0]));
            renamed = true;
        }
    }
    if !renamed {
        return Ok(object);
    }
    let names =
        long(&object, header(usize::from(u16::from_le_bytes(bytes(&object, elf::SECTION_NAMES)?))) + elf::OFFSET)?;
    for number in 0..count {
        let name = names + word(&object, header(number))? as usize;
        if object.get(name..).is_some_and(|name| name.starts_with(b".BTF")) {
            // The first name of every string table is empty.
            object[header(number)..][..4].fill(0);
        }
    }
    let end = object.len() as u64;
    object[strings + elf::OFFSET..][..8].copy_from_slice(&end.to_le_bytes());
    object[strings + elf::SIZE..][..8].copy_from_slice(&(table.len() as u64).to_le_bytes());
    object.extend(table);
    Ok(object)
}

fn bytes<const N: usize>(object: &[u8], at: usize) -> Result<[u8; N]> {
    object.get(at..).and_then(|rest| rest.first_chunk()).copied().context("an object that is cut short")
}

fn word(object: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(object, at)?))
}

fn long(object: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(u64::from_le_bytes(bytes(object, at)?))?)
}
