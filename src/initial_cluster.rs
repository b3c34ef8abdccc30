//! `--initial-cluster`, of `serve` and of `snapshot restore`.

use ringstone_core::config::InitialMember;

/// The members of a new cluster: NAME=URL,NAME=URL,... where a name may come again; empty: this one alone. This one is among
/// them, with the URLs that it advertises.
///
/// # Errors
/// What does not fit, in the words of the flags.
pub fn initial_members(name: &str, advertised: &[String], cluster: &str) -> Result<Vec<InitialMember>, String> {
    if cluster.is_empty() {
        return Ok(vec![InitialMember { name: name.to_owned(), peer_urls: advertised.to_vec() }]);
    }
    let mut members: Vec<InitialMember> = Vec::new();
    for member in cluster.split(',') {
        let (member_name, url) = member
            .split_once('=')
            .ok_or_else(|| format!("--initial-cluster: {member:?} is not of the form NAME=URL"))?;
        if let Some(known) = members.iter().find(|known| known.peer_urls.iter().any(|known| known == url)) {
            return Err(format!(
                "--initial-cluster: {:?} and {member_name:?} have the same URL {url}: each member needs its own",
                known.name
            ));
        }
        match members.iter_mut().find(|known| known.name == member_name) {
            Some(known) => known.peer_urls.push(url.to_owned()),
            None => members.push(InitialMember { name: member_name.to_owned(), peer_urls: vec![url.to_owned()] }),
        }
    }
    let Some(own) = members.iter().find(|member| member.name == name) else {
        return Err(format!(
            "--initial-cluster={cluster} does not name this member, {name:?}: add {name}={}, or set --name",
            advertised.join(",")
        ));
    };
    let (mut named, mut told) = (own.peer_urls.clone(), advertised.to_vec());
    named.sort_unstable();
    told.sort_unstable();
    if named != told {
        return Err(format!(
            "--initial-cluster has {name}={}, but --initial-advertise-peer-urls has {}: they must be the same",
            named.join(","),
            told.join(",")
        ));
    }
    Ok(members)
}
