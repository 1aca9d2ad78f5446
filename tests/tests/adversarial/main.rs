//! Attacks on what a subscriber is charged with, each beside its harmless twin: the same conversation, held in earnest,
//! must still count. On the host and in the kernel, which must agree.

mod budgets;
mod carriers;
mod conversations;
mod forged;
mod pages;
mod races;
mod shares;
mod spray;
mod world;
