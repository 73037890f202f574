//! The DNS around a DC: the server of `ntm-dns`, at the port where all name servers are, from the root on.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use hickory_proto::rr::Name;
use ntm_daemon::trace::TraceSink;
use ntm_dns::answer::Zones;
use ntm_dns::server::{DnsServer, Traced};
use ntm_dns::zone::Zone;
use tokio::sync::oneshot;

use crate::process::loopback;
use crate::space::Space;

const SOA: &str = "$TTL 60\n@ SOA ns h 1 2 3 4 60\n@ NS ns\n";

const TEST: &str = "\
ns          A   127.0.0.2
dc          NS  ns.dc
ns.dc       A   127.0.0.10
lab         NS  ns.lab
ns.lab      A   127.0.0.20
example     NS  ns.example
ns.example  A   127.0.0.3
refusing    NS  ns.refusing
ns.refusing A   127.0.0.3
silent      NS  ns.silent
ns.silent   A   127.0.0.4
liar        NS  ns.liar
ns.liar     A   127.0.0.5
knot        NS  ns.tangle
tangle      NS  ns.knot
astray      NS  ns.astray
ns.astray   A   127.0.0.10
mute        NS  ns.mute
ns.mute     A   127.0.0.4
";

const EXAMPLE: &str = "\
ns     A    127.0.0.3
www    A    192.0.2.80
ftp    A    192.0.2.21
ftp    AAAA 2001:db8::21
bare   TXT  \"no address\"
alias  CNAME second
second CNAME third
third  CNAME www
round  CNAME about
about  CNAME round
adrift CNAME nothing
far    CNAME www.nothing.test.
muted  CNAME www.mute.test.
to-ntm CNAME mn.dc.test.
long0  CNAME long1
long1  CNAME long2
long2  CNAME long3
long3  CNAME long4
long4  CNAME long5
long5  CNAME long6
long6  CNAME long7
long7  CNAME long8
long8  CNAME long9
long9  CNAME longa
longa  CNAME longb
longb  CNAME longc
longc  CNAME longd
longd  CNAME longe
longe  CNAME longf
longf  CNAME longg
longg  CNAME longh
longh  CNAME longi
longi  CNAME longj
longj  CNAME longk
longk  CNAME longl
longl  CNAME longm
longm  CNAME longn
longn  CNAME longo
longo  CNAME longp
longp  CNAME www
";

const LIAR: &str = "ns A 127.0.0.5\n@ TXT \"ntm-dc=1\"\nmn TXT \"ntm-dc=1\"\n";

/// The last byte of a server's address, a zone's origin, and the zone.
const SERVERS: [(u8, &str, &str); 4] = [
    (
        1,
        ".",
        "$TTL 60\n. SOA a.root. h. 1 2 3 4 60\n. NS a.root.\na.root. A 127.0.0.1\ntest. NS ns.test.\nns.test. A 127.0.0.2\n",
    ),
    (2, "test.", TEST),
    (3, "example.test.", EXAMPLE),
    (5, "liar.test.", LIAR),
];

/// The servers, until dropped.
pub(crate) struct Names {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// 127.0.0.4 takes questions and never answers.
    _silent: UdpSocket,
}

impl Names {
    /// Starts them in `space`.
    pub(crate) fn start(space: &Space) -> Self {
        let silent = space.udp(loopback(4), 53);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let inside = space.clone();
        let thread = thread::spawn(move || {
            inside.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut servers = Vec::new();
                for (last, origin, text) in SERVERS {
                    servers.push(serve(last, origin, text).await);
                }
                ready.send(()).expect("the test waits");
                // Either way the test is over.
                let _ = stopped.await;
            });
        });
        is_ready.recv().expect("the name servers serve");
        Self { stop: Some(stop), thread: Some(thread), _silent: silent }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(last: u8, origin: &str, text: &str) -> DnsServer {
    let text = if origin == "." { text.to_owned() } else { format!("{SOA}{text}") };
    let origin = Name::from_ascii(origin).expect("a name");
    let mut zones = Zones::default();
    zones.add(Zone::parse(&origin, &text, Path::new("a test's zone")).expect("a zone"));
    let at = SocketAddr::new(loopback(last), 53);
    let trace = TraceSink::open(None).expect("no trace");
    DnsServer::start("names", zones, &[at], trace, Traced::Refusals).await.expect("a name server")
}
