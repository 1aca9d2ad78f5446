//! Binds the agent's addresses before anything is attached, so that a port in use stops the start and not the counting.

use std::{
    fs::{self, DirBuilder},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use peertally_core::exit::{Exit, ExitCause};

/// Why an address cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The TCP address.
    #[error("cannot listen on {address}: {source}; {}", tcp_hint(*address, source))]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The control socket.
    #[error("cannot listen on the control socket {}: {source}; run as root, or set `control_socket` to a path that this user may write", path.display())]
    Unix {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Another agent answers there.
    #[error("another agent listens on {}; stop it, or configure another `control_socket` and `listen`", .0.display())]
    Running(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{} is not a socket; move it away, or set `control_socket` to another path", .0.display())]
    NoSocket(PathBuf),
}

impl ExitCause for ListenError {
    fn exit(&self) -> Exit {
        match self {
            Self::Tcp { source, .. } | Self::Unix { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::Rights
            }
            Self::Tcp { .. } | Self::Unix { .. } | Self::Running(_) => Exit::Unavailable,
            Self::NoSocket(_) => Exit::Usage,
        }
    }
}

fn tcp_hint(address: SocketAddr, source: &io::Error) -> String {
    let port = address.port();
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("see what holds it with `ss -ltnp sport = :{port}`, or choose another with --listen ADDR")
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface has this address; choose another with --listen ADDR".to_owned()
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need root; choose another with --listen ADDR".to_owned(),
        _ => "choose another with --listen ADDR".to_owned(),
    }
}

/// Listens on a TCP address.
///
/// # Errors
/// [`ListenError::Tcp`].
pub fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|source| ListenError::Tcp { address, source })
}

/// The file of the control socket; it is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Listens on a Unix socket that only its owner may use: it names subscribers by address. A socket without a
    /// listener is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(path: &Path) -> Result<(UnixListener, Self), ListenError> {
        let failed = |source| ListenError::Unix { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(directory) = path.parent() {
                    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
                }
            }
            Err(error) => return Err(failed(error)),
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(ListenError::NoSocket(path.to_owned())),
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(ListenError::Running(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?
                }
                Err(error) => return Err(failed(error)),
            },
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Self { path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok((listener, socket))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Gone already is fine.
        let _gone = fs::remove_file(&self.path);
    }
}
