//! What the service manager hears. A test of its own process: it sets an environment variable.

use std::os::unix::net::UnixDatagram;

#[test]
fn the_service_manager_hears_each_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let heard = || {
        let mut buffer = [0; 256];
        let size = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    };
    // SAFETY: this process has one test, and nothing else of it reads or writes the environment meanwhile.
    unsafe { std::env::set_var("NOTIFY_SOCKET", &path) };
    ntm_daemon::notify::ready("rs1 serves");
    assert_eq!(heard(), "READY=1\nSTATUS=rs1 serves\n");
    ntm_daemon::notify::status("3 paths");
    assert_eq!(heard(), "STATUS=3 paths\n");
    ntm_daemon::notify::stopping("SIGTERM");
    assert_eq!(heard(), "STOPPING=1\nSTATUS=SIGTERM\n");
    // Nobody there: it is logged, and the daemon goes on.
    drop(socket);
    ntm_daemon::notify::status("alone");
}
