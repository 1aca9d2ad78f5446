//! `cargo xtask habits`: rules of this repository that the compiler does not check. Reads files and history, builds
//! nothing.
//!
//! Each check is a function from the tree to findings, so that unit tests can run it on made-up files. The lane
//! `habits` of `cargo xtask test` runs them all.

mod comments;
mod commits;
mod dependencies;
mod references;
mod sizes;
mod source;
mod tree;

use anyhow::{Result, bail};

use tree::Tree;

/// Arguments of `habits`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Also list long files and functions; these are reported, and not enforced
    #[arg(long)]
    pub sizes: bool,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    CommentWidth,
    Dependencies,
    References,
    CommitSubjects,
}

impl Check {
    const ALL: &[Self] = &[Self::CommentWidth, Self::Dependencies, Self::References, Self::CommitSubjects];

    fn about(self) -> &'static str {
        match self {
            Self::CommentWidth => "comment lines over 120 columns",
            Self::Dependencies => "dependencies that no source names",
            Self::References => "references to files, sections and anchors that do not exist",
            Self::CommitSubjects => "commit subjects over 72 columns, or not `area: summary`",
        }
    }

    fn findings(self, tree: &Tree) -> Result<Vec<String>> {
        match self {
            Self::CommentWidth => Ok(comments::of(tree)),
            Self::Dependencies => dependencies::of(tree),
            Self::References => Ok(references::of(tree)),
            Self::CommitSubjects => commits::of(tree.root()),
        }
    }
}

/// Runs every check.
///
/// # Errors
/// When a check finds something, or the tree cannot be read.
pub fn run(arguments: &Arguments) -> Result<()> {
    let tree = Tree::read(crate::workspace::root())?;
    let mut broken = 0;
    for check in Check::ALL {
        let findings = check.findings(&tree)?;
        println!("habits: {}: {}", check.about(), findings.len());
        for finding in &findings {
            println!("  {finding}");
        }
        broken += usize::from(!findings.is_empty());
    }
    if arguments.sizes {
        sizes::print(&tree);
    }
    if broken > 0 {
        bail!("{broken} of {} checks found something, see above", Check::ALL.len());
    }
    Ok(())
}
