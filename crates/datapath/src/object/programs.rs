//! The programs of the object: the entry, and the stages in the table that its tail calls go through.

use std::iter;

use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{ProgramFd, ProgramInfo, Xdp},
};
use monitor_common::abi::stage::StageProgram;

use super::PROGRAM;
use crate::error::ObjectError;

/// The table of the stages behind the entry program. Builds with a single program have none.
pub(super) const STAGES: &str = "STAGES";

/// Loads the entry program and its stages, and enters the stages into their table.
pub(super) fn load_all(ebpf: &mut Ebpf) -> Result<(), ObjectError> {
    load(ebpf, PROGRAM)?;
    if ebpf.map(STAGES).is_none() {
        return Ok(());
    }
    let mut stages = Vec::new();
    for stage in StageProgram::ALL {
        stages.push((*stage, load(ebpf, stage.label())?));
    }
    let error = |source| ObjectError::Map { name: STAGES, source };
    let map = ebpf.map_mut(STAGES).ok_or(ObjectError::MapMissing { name: STAGES })?;
    let mut table = ProgramArray::try_from(map).map_err(error)?;
    for (stage, program) in stages {
        table.set(stage as u32, &program, 0).map_err(error)?;
    }
    Ok(())
}

/// Loads one program.
fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramFd, ObjectError> {
    let program = xdp(ebpf, name)?;
    program.load().map_err(|source| ObjectError::Verifier { name, source: Box::new(source) })?;
    let fd = program.fd().map_err(|source| ObjectError::Program { name, source: Box::new(source) })?;
    fd.try_clone().map_err(|source| ObjectError::Program { name, source: Box::new(source.into()) })
}

pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, ObjectError> {
    let program = ebpf.program_mut(name).ok_or(ObjectError::ProgramMissing { name })?;
    program.try_into().map_err(|_| ObjectError::ProgramMissing { name })
}

/// What the kernel tells of a loaded program.
pub(super) fn info(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramInfo, ObjectError> {
    xdp(ebpf, name)?.info().map_err(|source| ObjectError::Program { name, source: Box::new(source) })
}

/// Every program and the instructions that the verifier processed for it.
pub(super) fn verified_instructions(ebpf: &mut Ebpf) -> Result<Vec<(&'static str, u32)>, ObjectError> {
    let mut counts = Vec::new();
    for name in iter::once(PROGRAM).chain(StageProgram::ALL.iter().map(|stage| stage.label())) {
        if ebpf.program(name).is_some() {
            let count = info(ebpf, name)?.verified_instruction_count();
            counts.push((name, count.ok_or(ObjectError::NoInstructionCount)?));
        }
    }
    Ok(counts)
}
