//! Steps of the file system, each done whole or not at all. A test can have any of them fail, as a kill before it does.

use std::{io, path::Path};

macro_rules! steps {
    ($($name:ident($($path:ident),+)),+) => {$(
        #[doc = concat!("`fs::", stringify!($name), "`.")]
        pub(super) fn $name($($path: impl AsRef<Path>),+) -> io::Result<()> {
            #[cfg(test)]
            super::tests::step()?;
            std::fs::$name($($path),+)
        }
    )+};
}

steps!(rename(from, to), hard_link(from, to), create_dir(path), remove_dir(path), remove_file(path));
