//! Compiles our .proto files, and writes two tables from the same descriptors: the methods, and the shape of each message.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use std::fmt::Write as _;
use std::{env, fs, path::Path};

const FILES: [&str; 6] =
    ["mvccpb.proto", "authpb.proto", "rpc.proto", "v3lock.proto", "v3election.proto", "health.proto"];

/// The Rust module that a proto package is generated into.
fn module_of(package: &str) -> &str {
    if package == "grpc.health.v1" { "health" } else { package }
}

fn main() {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"]).expect("our .proto files compile");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let write = |name: &str, text: String| fs::write(Path::new(&out).join(name), text).expect("OUT_DIR is writable");
    write("methods.rs", methods(&descriptors));
    write("shapes.rs", shapes(&descriptors));
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.compile_fds(with_rust_names(descriptors)).expect("prost generates code for our .proto files");
}

/// `peerURLs` would become `peer_ur_ls`: only the generated fields are renamed, the wire knows numbers.
fn with_rust_names(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for field in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type).flat_map(|m| &mut m.field) {
        if let Some(name) = &mut field.name
            && name.ends_with("URLs")
        {
            *name = name.replace("URLs", "_urls");
        }
    }
    descriptors
}

fn title(name: &str) -> String {
    // Only `KV` is all capitals.
    if name == "KV" { "Kv".into() } else { name.into() }
}

/// `enum Method` with its facts. A variant is service + method, without the service where the method repeats it.
fn methods(descriptors: &FileDescriptorSet) -> String {
    let mut rows = Vec::new();
    let mut services = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let full = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                let variant = match method.name().starts_with(service.name()) {
                    true => title(method.name()),
                    false => format!("{}{}", title(service.name()), method.name()),
                };
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "Unary",
                    (true, false) => "ClientStream",
                    (false, true) => "ServerStream",
                    (true, true) => "BidiStream",
                };
                rows.push((variant, full.clone(), method.name().to_owned(), kind));
            }
            services.push(full);
        }
    }
    let mut text = String::new();
    let w = &mut text;
    let put = |w: &mut String, line: String| writeln!(w, "{line}").expect("a String takes all");
    put(w, "/// Every method of every service, in the order of the .proto files.".into());
    put(
        w,
        "#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]\n#[repr(u8)]\npub enum Method {".into(),
    );
    for (variant, service, name, _) in &rows {
        put(w, format!("    /// `/{service}/{name}`\n    {variant},"));
    }
    put(w, "}\n\nimpl Method {".into());
    put(w, format!("    /// How many methods there are.\n    pub const COUNT: usize = {};", rows.len()));
    put(
        w,
        "    /// All methods; the position is `method as usize`.\n    pub const ALL: [Method; Self::COUNT] = [".into(),
    );
    rows.iter().for_each(|(variant, ..)| put(w, format!("        Method::{variant},")));
    put(
        w,
        format!(
            "    ];\n    /// Full names of all services.\n    pub const SERVICES: [&'static str; {}] = {services:?};",
            services.len()
        ),
    );
    put(w, "    const FACTS: [Facts; Self::COUNT] = [".into());
    for (_, service, name, kind) in &rows {
        put(
            w,
            format!(
                "        Facts {{ path: \"/{service}/{name}\", service: {service:?}, name: {name:?}, kind: MethodKind::{kind} }},"
            ),
        );
    }
    put(
        w,
        "    ];\n    /// The method of a request path, compared as a whole: no other spelling leads to a method."
            .into(),
    );
    put(w, "    pub fn from_path(path: &str) -> Option<Method> {\n        match path.len() {".into());
    let mut lengths: Vec<usize> = rows.iter().map(|(_, service, name, _)| service.len() + name.len() + 2).collect();
    lengths.sort_unstable();
    lengths.dedup();
    for length in lengths {
        put(w, format!("            {length} => match path {{"));
        for (variant, service, name, _) in rows.iter().filter(|(_, s, n, _)| s.len() + n.len() + 2 == length) {
            put(w, format!("                \"/{service}/{name}\" => Some(Method::{variant}),"));
        }
        put(w, "                _ => None,\n            },".into());
    }
    put(w, "            _ => None,\n        }\n    }\n}".into());
    text
}

/// For each message, what wire type each field number has: `decode` checks bytes against it before prost sees them.
fn shapes(descriptors: &FileDescriptorSet) -> String {
    let mut text = String::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            let full = format!("{}.{}", file.package(), message.name());
            shape(&mut text, &full, message);
            writeln!(
                text,
                "impl Described for crate::{}::{} {{\n    const SHAPE: &'static Shape = &{};\n}}",
                module_of(file.package()),
                rust_type(message.name()),
                shape_name(&full)
            )
            .expect("a String takes all");
        }
    }
    text
}

/// prost writes `HashKVRequest` as `HashKvRequest`.
fn rust_type(name: &str) -> String {
    name.replace("KV", "Kv")
}

fn shape_name(full: &str) -> String {
    full.replace('.', "_").to_uppercase()
}

fn shape(text: &mut String, full: &str, message: &DescriptorProto) {
    for nested in &message.nested_type {
        shape(text, &format!("{full}.{}", nested.name()), nested);
    }
    let highest = message.field.iter().map(|field| field.number()).max().unwrap_or(0);
    let mut kinds = vec!["Kind::Unknown".to_owned(); highest as usize + 1];
    for field in &message.field {
        let repeated = field.label() == Label::Repeated;
        kinds[field.number() as usize] = match field.r#type() {
            Type::Int64 | Type::Uint64 | Type::Uint32 | Type::Bool | Type::Enum if repeated => "Kind::Varints".into(),
            Type::Int64 | Type::Uint64 | Type::Uint32 | Type::Bool | Type::Enum => "Kind::Varint".into(),
            Type::Bytes | Type::String => "Kind::Bytes".into(),
            Type::Message => format!("Kind::Message(&{})", shape_name(field.type_name().trim_start_matches('.'))),
            other => panic!("{full}: a field of type {other:?} is unknown to the shape table"),
        };
    }
    writeln!(text, "static {}: Shape = Shape {{ name: {full:?}, kinds: &[{}] }};", shape_name(full), kinds.join(", "))
        .expect("a String takes all");
}
