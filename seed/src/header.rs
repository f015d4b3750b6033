//! The header block of a seed copy, to and from bytes. The layout is written in `spec::seed`.

use crate::Defect;
use sha2::{Digest, Sha256};
use spec::seed::{HEADER_SIZE, Header, MAGIC, payload_maximum};

/// The header block: magic, numbers and hash, and the hash of those 64 bytes.
pub fn encode(header: &Header) -> [u8; HEADER_SIZE] {
    let mut block = [0u8; HEADER_SIZE];
    block[0..16].copy_from_slice(&MAGIC);
    block[16..24].copy_from_slice(&header.generation.to_le_bytes());
    block[24..32].copy_from_slice(&header.length.to_le_bytes());
    block[32..64].copy_from_slice(&header.payload_sha256);
    let checksum = Sha256::digest(&block[..64]);
    block[64..96].copy_from_slice(&checksum);
    block
}

/// Reads a header block. `Ok(None)`: the block is all zero, so this copy was never written or was
/// erased.
///
/// # Errors
/// Says which part of the block is not what the layout wants.
pub fn decode(block: &[u8; HEADER_SIZE]) -> Result<Option<Header>, Defect> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if block[0..16] != MAGIC {
        return Err(Defect::Magic(block[0..16].escape_ascii().to_string()));
    }
    if block[64..96] != *Sha256::digest(&block[..64]) {
        return Err(Defect::HeaderChecksum);
    }
    if block[96..].iter().any(|byte| *byte != 0) {
        return Err(Defect::Reserved);
    }
    let header = Header {
        generation: number(&block[16..24]),
        length: number(&block[24..32]),
        payload_sha256: std::array::from_fn(|index| block[32 + index]),
    };
    if header.length > payload_maximum() {
        return Err(Defect::Length(header.length));
    }
    Ok(Some(header))
}

fn number(bytes: &[u8]) -> u64 {
    let mut array = [0u8; 8];
    array.copy_from_slice(bytes);
    u64::from_le_bytes(array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        (any::<u64>(), 0..=payload_maximum(), any::<[u8; 32]>())
            .prop_map(|(generation, length, payload_sha256)| Header { generation, length, payload_sha256 })
    }

    proptest! {
        #[test]
        fn a_header_comes_back(header in header()) {
            prop_assert_eq!(decode(&encode(&header)).unwrap(), Some(header));
        }

        #[test]
        fn any_flipped_bit_is_noticed(header in header(), bit in 0..HEADER_SIZE * 8) {
            let mut block = encode(&header);
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&block).is_err());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), HEADER_SIZE)) {
            let _ = decode(bytes.as_slice().try_into().unwrap());
        }
    }

    #[test]
    fn zeros_are_an_erased_copy() {
        assert_eq!(decode(&[0; HEADER_SIZE]).unwrap(), None);
    }
}
