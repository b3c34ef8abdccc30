//! What can be wrong between members: it is refused with a message that names both sides and the remedy, where an operator
//! looks, and nobody else is disturbed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::seats::{Seat, cluster_of, ctl, ctl_until, status, three};
use crate::support::{Member, folder};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

/// The errors of `endpoint status`, once these words are among them.
fn errors_with(port: u16, words: &str) -> String {
    let began = Instant::now();
    loop {
        let errors = status(port, "errors");
        if errors.contains(words) {
            return errors;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{words:?} is not in {errors}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// No errors any more: all are connected.
fn healed(port: u16) {
    let began = Instant::now();
    while status(port, "errors").contains("is not connected") {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", status(port, "errors"));
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn works(members: &[Member], value: &str) {
    for (number, member) in members.iter().enumerate() {
        let (success, text) = ctl(member.port, &["put", &format!("key{number}"), value]);
        assert!(success, "{text}");
    }
    for number in 0..members.len() {
        let (_, text) = ctl(members[0].port, &["get", &format!("key{number}"), "--print-value-only"]);
        assert_eq!(text, format!("{value}\n"));
    }
}

#[test]
fn garbage_on_the_peer_ports() {
    let folder = folder();
    let (seats, members) = three(folder.path(), &[]);
    works(&members, "before");
    let term = status(members[0].port, "raftTerm");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..3000u32 {
        let port = seats[round as usize % 3].peer_port();
        let mut datagram: Vec<u8> = (0..random() % 1300).map(|_| random() as u8).collect();
        if round % 2 == 0 && datagram.len() > 30 {
            // The head of a first packet of QUIC version 1.
            datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        }
        let _ = socket.send_to(&datagram, ("127.0.0.1", port));
        if round % 30 == 0 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _ = stream.write_all(if round % 60 == 0 { &datagram } else { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxx" });
        }
        if round % 300 == 0 {
            works(&members, "meanwhile");
        }
    }
    works(&members, "after");
    assert_eq!(status(members[0].port, "raftTerm"), term, "nobody lost the leader");
    for (seat, member) in seats.iter().zip(&members) {
        healed(member.port);
        let mut stream = TcpStream::connect(("127.0.0.1", seat.peer_port())).unwrap();
        write!(stream, "GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    members.into_iter().for_each(Member::stop);
}

/// Two of three, and the third with more flags.
fn two_and(folder: &Path, seats: &[Seat; 3], of_two: [&[&str]; 2], third: &[&str]) -> (Vec<Member>, Member) {
    let cluster = cluster_of(seats);
    let two: Vec<Member> = (0..2).map(|number| seats[number].spawn(folder, &cluster, of_two[number])).collect();
    let third = seats[2].spawn(folder, &cluster, third);
    two.iter().for_each(Member::wait_until_ready);
    (two, third)
}

#[test]
fn a_member_with_another_token_is_of_another_cluster() {
    let folder = folder();
    let seats = ["m0", "m1", "m2"].map(Seat::new);
    let (two, mut third) = two_and(folder.path(), &seats, [&[], &[]], &["--initial-cluster-token=another"]);
    works(&two, "by two");
    let errors = errors_with(two[0].port, "belongs to cluster");
    assert!(errors.contains("--initial-cluster-token of both"), "{errors}");
    third.wait_for_log("belongs to cluster");
    assert!(third.is_running() && third.log().contains("--initial-cluster-token of both"), "{}", third.log());
    drop(third);
    // The remedy that it names: the token, and the folder that is of the wrong cluster.
    fs::remove_dir_all(folder.path().join("m2")).unwrap();
    let third = seats[2].spawn(folder.path(), &cluster_of(&seats), &[]);
    third.wait_until_ready();
    healed(two[0].port);
}

#[test]
fn a_second_process_of_a_member_ends() {
    let folder = folder();
    let (seats, mut members) = three(folder.path(), &[]);
    let cluster = cluster_of(&seats);
    works(&members, "by three");
    members.pop().unwrap().stop();
    let copied = Command::new("cp").arg("-a").arg(folder.path().join("m2")).arg(folder.path().join("copy")).status();
    assert!(copied.unwrap().success());
    let mut third = seats[2].spawn(folder.path(), &cluster, &[]);
    third.wait_until_ready();
    healed(members[0].port);
    let mut flags = seats[2].flags(&cluster, "new");
    flags[1] = format!("--listen-peer-urls={}", Seat::new("elsewhere").peer);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut copy = Member::spawn(&folder.path().join("copy"), &flags);
    assert_eq!(copy.wait_for_end(), Some(12), "{}", copy.log());
    assert!(copy.log().contains("two processes run as member"), "{}", copy.log());
    assert!(third.is_running());
    works(&members, "still by three");
    assert!(ctl(third.port, &["put", "here", "too"]).0);
}

struct Authority {
    folder: PathBuf,
    cert: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Authority {
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap();
        write_pem(&folder.join("ca.pem"), "CERTIFICATE", cert.der());
        Authority { folder, cert, key }
    }

    /// The flags of a member with a certificate of this name, which trusts this authority.
    fn flags(&self, file: &str, name: &str, host: &str) -> Vec<String> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.cert, &self.key).unwrap();
        let at = |ending: &str| self.folder.join(format!("{file}.{ending}"));
        write_pem(&at("crt"), "CERTIFICATE", cert.der());
        write_pem(&at("key"), "PRIVATE KEY", &key.serialize_der());
        vec![
            format!("--peer-cert-file={}", at("crt").display()),
            format!("--peer-key-file={}", at("key").display()),
            format!("--peer-trusted-ca-file={}", self.folder.join("ca.pem").display()),
            "--peer-client-cert-auth".to_owned(),
        ]
    }
}

fn write_pem(path: &Path, label: &str, der: &[u8]) {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    fs::write(path, format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))).unwrap();
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

#[test]
fn certificates_that_are_not_taken() {
    let folder = folder();
    let seats = ["m0", "m1", "m2"].map(Seat::new);
    let (ours, others) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "others"));
    let member = |file: &str| {
        let mut flags = ours.flags(file, "member", "127.0.0.1");
        flags.push("--peer-cert-allowed-cn=operator,member".to_owned());
        flags
    };
    let good = ["m0", "m1", "m2"].map(member);
    let wrong = others.flags("m2", "member", "127.0.0.1");
    let (two, third) = two_and(folder.path(), &seats, [&words(&good[0]), &words(&good[1])], &words(&wrong));
    works(&two, "by two");
    // Of another authority.
    let errors = errors_with(two[0].port, "ertificate");
    assert!(errors.contains("is not connected: TLS with UDP"), "{errors}");
    third.wait_for_log("TLS with UDP");
    drop(third);
    // Of this one, with a name that is none of those allowed.
    let stranger = ours.flags("stranger", "stranger", "127.0.0.1");
    let third = seats[2].spawn(folder.path(), &cluster_of(&seats), &words(&stranger));
    third.wait_for_log("--peer-cert-allowed-cn");
    errors_with(two[0].port, "--peer-cert-allowed-cn");
    drop(third);
    // With an address that it isn't at: whoever is dialled does not have the name, whoever dials does not come from there.
    let elsewhere = ours.flags("elsewhere", "member", "127.0.0.9");
    let third = seats[2].spawn(folder.path(), &cluster_of(&seats), &words(&elsewhere));
    third.wait_for_log("--peer-skip-client-san-verification");
    assert!(third.log().contains("are not 127.0.0.1"), "{}", third.log());
    drop(third);
    let third = seats[2].spawn(folder.path(), &cluster_of(&seats), &words(&good[2]));
    third.wait_until_ready();
    healed(two[0].port);
    works(&two, "by three");
    // Flags that say less than they seem to.
    for (flags, named) in [
        (vec!["--peer-cert-allowed-cn=a".to_owned()], "--peer-cert-allowed-cn is given without --peer-cert-file"),
        ([member("both"), vec!["--peer-cert-allowed-hostname=a".to_owned()]].concat(), "is held against one of them"),
    ] {
        let seat = Seat::new("odd");
        let mut odd = seat.spawn(folder.path(), &format!("odd={},m0={}", seat.peer, seats[0].peer), &words(&flags));
        assert_ne!(odd.wait_for_end(), Some(0));
        assert!(odd.log().contains(named), "{}", odd.log());
    }
}

/// TCP ports are what operators of etcd open.
#[test]
fn a_member_that_is_reached_by_tcp_alone() {
    let folder = folder();
    let seats = ["m0", "m1", "m2"].map(Seat::new);
    let listener = TcpListener::bind(("127.0.0.1", seats[2].peer_port())).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let body = "{\"etcdserver\":\"3.7.3\",\"etcdcluster\":\"3.7.0\"}";
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    });
    let cluster = cluster_of(&seats);
    let two: Vec<Member> = seats[..2].iter().map(|seat| seat.spawn(folder.path(), &cluster, &[])).collect();
    two.iter().for_each(Member::wait_until_ready);
    let port = seats[2].peer_port();
    let words = format!("answers over TCP but not over UDP: peers speak QUIC, so open UDP port {port}");
    errors_with(two[0].port, &words);
    let member = &two[0];
    member.wait_for_log(&words);
    works(&two, "by two");
    // Some dials later the log still has each line once.
    std::thread::sleep(Duration::from_secs(10));
    for line in ["peer can't be dialled", "peer can't be reached"] {
        let times = member.log().matches(line).count();
        assert!(times <= 2, "{line} is there {times} times:\n{}", member.log());
    }
    ctl_until(two[1].port, &["endpoint", "health"], |text| text.contains("is healthy"));
}
