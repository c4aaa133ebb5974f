//! ClientHellos made by hand, for everything a TLS library would not send.

/// A ClientHello (handshake message, without record header) with that server name, which need not be one.
pub fn client_hello(name: Option<&[u8]>, versions: &[u16]) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let entry = [&[0][..], &with_length(name)].concat();
        extension(&mut extensions, 0, &with_length(&entry));
    }
    let versions: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
    extension(&mut extensions, 43, &[&[u8::try_from(versions.len()).unwrap()], versions.as_slice()].concat());
    extension(&mut extensions, 10, &with_length(&[0, 0x1d]));
    extension(&mut extensions, 13, &with_length(&[4, 3]));
    // Any 32 bytes are an X25519 share.
    let share = [&[0, 0x1d][..], &with_length(&[9; 32])].concat();
    extension(&mut extensions, 51, &with_length(&share));
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(with_length(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(with_length(&extensions));
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

/// The message in records of at most that many bytes.
pub fn records(message: &[u8], most: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[0x16, 3, 1][..], &with_length(part)].concat();
    message.chunks(most).flat_map(record).collect()
}

fn extension(into: &mut Vec<u8>, kind: u16, body: &[u8]) {
    into.extend(kind.to_be_bytes());
    into.extend(with_length(body));
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}
