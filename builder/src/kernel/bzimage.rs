//! The uncompressed kernel out of a bzImage, by the x86 Linux boot protocol (2.08 and later:
//! `payload_offset` and `payload_length` of Documentation/arch/x86/boot.rst).

use super::Error;
use std::io::Read;

/// Offsets in the setup header, bytes from the start of the file.
const SETUP_SECTORS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PROTOCOL_VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The payload's fields exist since this version of the protocol.
const PAYLOAD_PROTOCOL: u16 = 0x0208;
/// The build appends the uncompressed size (four bytes) to what is not gzip.
const SIZE_TRAILER: usize = 4;

/// The ELF image (`vmlinux`, stripped) of the bzImage `image`.
///
/// # Errors
/// [`Error::BzImage`] with what is wrong: no setup header, a payload outside the file, an unknown or
/// damaged compression, or content that is not ELF.
pub fn decompress(image: &[u8]) -> Result<Vec<u8>, Error> {
    let payload = payload(image)?;
    let vmlinux = unpack(payload)?;
    if !vmlinux.starts_with(b"\x7fELF") {
        return Err(Error::BzImage("the payload does not hold an ELF image".into()));
    }
    Ok(vmlinux)
}

fn payload(image: &[u8]) -> Result<&[u8], Error> {
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS") {
        return Err(Error::BzImage("no `HdrS` at byte 514: not a bzImage".into()));
    }
    let version = u16::from_le_bytes(array(image, PROTOCOL_VERSION)?);
    if version < PAYLOAD_PROTOCOL {
        return Err(Error::BzImage(format!("boot protocol {version:#06x}; wanted {PAYLOAD_PROTOCOL:#06x} or later")));
    }
    let [sectors] = array(image, SETUP_SECTORS)?;
    // Zero stands for four, says the protocol.
    let sectors = if sectors == 0 { 4 } else { usize::from(sectors) };
    let offset = u32::from_le_bytes(array(image, PAYLOAD_OFFSET)?) as usize;
    let length = u32::from_le_bytes(array(image, PAYLOAD_LENGTH)?) as usize;
    let start = (sectors + 1) * 512 + offset;
    image.get(start..start.saturating_add(length)).ok_or_else(|| {
        Error::BzImage(format!("payload of {length} bytes at {start} lies outside the file of {} bytes", image.len()))
    })
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>, Error> {
    let body = &payload[..payload.len().saturating_sub(SIZE_TRAILER)];
    let mut content = Vec::new();
    let result = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::stream::read::Decoder::new(body)
            .map(zstd::stream::read::Decoder::single_frame)
            .and_then(|mut decoder| decoder.read_to_end(&mut content)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => liblzma::read::XzDecoder::new(body).read_to_end(&mut content),
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(payload).read_to_end(&mut content),
        _ => {
            let magic: String = payload.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            return Err(Error::BzImage(format!("the payload starts with {magic}; known are zstd, xz and gzip")));
        }
    };
    result.map_err(|error| Error::BzImage(format!("the payload does not decompress: {error}")))?;
    Ok(content)
}

fn array<const N: usize>(image: &[u8], offset: usize) -> Result<[u8; N], Error> {
    let bytes = image.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Error::BzImage(format!("the file ends at byte {}", image.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one setup sector and `payload` behind 16 bytes of code.
    pub fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0u8; 1024 + 16];
        image[SETUP_SECTORS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PROTOCOL_VERSION..PROTOCOL_VERSION + 2].copy_from_slice(&0x020fu16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"behind");
        image
    }

    fn with_trailer(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.extend_from_slice(&9u32.to_le_bytes());
        bytes
    }

    #[test]
    fn every_compression_of_the_kernel_is_read() {
        let elf = b"\x7fELFxxxxx";
        let zstd = with_trailer(zstd::encode_all(&elf[..], 3).unwrap());
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&elf[..], 6).read_to_end(&mut xz).unwrap();
        let mut gzip = Vec::new();
        flate2::read::GzEncoder::new(&elf[..], flate2::Compression::fast()).read_to_end(&mut gzip).unwrap();
        for payload in [zstd, with_trailer(xz), gzip] {
            assert_eq!(decompress(&image(&payload)).unwrap(), elf);
        }
    }

    #[test]
    fn bad_images_are_refused_in_words() {
        let refused = |bytes: &[u8]| decompress(bytes).unwrap_err().to_string();
        assert!(refused(b"MZ").contains("not a bzImage"));
        assert!(refused(&image(b"????")).contains("3f3f3f3f"));
        assert!(refused(&image(&with_trailer(zstd::encode_all(&b"text"[..], 3).unwrap()))).contains("ELF"));
        let mut cut = image(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]);
        assert!(refused(&cut).contains("decompress"));
        cut.truncate(1030);
        assert!(refused(&cut).contains("outside the file"));
    }
}
