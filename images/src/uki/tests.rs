//! A stub made by hand, so that the tests need no systemd; the real stub is judged in the stories.

use super::*;
use proptest::prelude::*;

const HEADERS: usize = 0x400;

/// A minimal PE32+ program with `.text` and `.sbat`, room for seven more section headers.
fn program(size_of_image: u32, sbat: &str, nx: bool) -> Vec<u8> {
    let mut bytes = vec![0u8; HEADERS + 0x400];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    put(0, b"MZ");
    put(0x3c, &0x80u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x84, &0x8664u16.to_le_bytes());
    put(0x86, &2u16.to_le_bytes());
    put(0x94, &240u16.to_le_bytes());
    let optional = 0x98;
    put(optional, &0x20bu16.to_le_bytes());
    put(optional + 32, &4096u32.to_le_bytes());
    put(optional + 36, &512u32.to_le_bytes());
    put(optional + 56, &size_of_image.to_le_bytes());
    put(optional + 60, &0x3f0u32.to_le_bytes());
    put(optional + 64, &77u32.to_le_bytes());
    put(optional + 70, &(if nx { 0x160u16 } else { 0x60 }).to_le_bytes());
    for (index, (name, size, offset)) in
        [(".text", 16u32, 0x400u32), (".sbat", sbat.len() as u32, 0x600)].iter().enumerate()
    {
        let header = optional + 240 + index * 40;
        put(header, name.as_bytes());
        put(header + 8, &size.to_le_bytes());
        put(header + 12, &(4096 * (index as u32 + 1)).to_le_bytes());
        put(header + 16, &512u32.to_le_bytes());
        put(header + 20, &offset.to_le_bytes());
    }
    put(0x600, sbat.as_bytes());
    bytes
}

fn stub() -> Vec<u8> {
    program(0x3000, "sbat,1,head\nsystemd-stub,1,x\n", true)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

proptest! {
    #[test]
    fn sections_come_back_in_order_and_aligned(
        initramfs in proptest::collection::vec(any::<u8>(), 1..5000),
        command_line in "[a-z =]{1,600}",
        image_size in 0..200_000u32,
    ) {
        let (stub, kernel) = (stub(), program(image_size, "sbat,1,head\nlinux,1,y\n", true));
        let uki = Uki { stub: &stub, kernel: &kernel, initramfs: &initramfs, command_line: &command_line, os_release: "ID=x\n", uname: "6.12" };
        let bytes = build(&uki).unwrap();
        let found = sections(&bytes).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        prop_assert_eq!(names, [".text", ".sbat", ".osrel", ".cmdline", ".uname", ".linux", ".initrd"]);
        prop_assert_eq!(&found[3].2, command_line.as_bytes());
        prop_assert_eq!(&found[5].2, &kernel);
        prop_assert_eq!(found[5].1, image_size.max(kernel.len() as u32));
        prop_assert_eq!(&found[6].2, &initramfs);
        let optional = 0x98;
        let mut end = 0;
        for index in 0..7 {
            let header = optional + 240 + index * 40;
            let (size, address) = (u32_at(&bytes, header + 8), u32_at(&bytes, header + 12));
            prop_assert!(address >= end && address.is_multiple_of(4096) && u32_at(&bytes, header + 20).is_multiple_of(512));
            end = address + size;
        }
        prop_assert_eq!(u32_at(&bytes, optional + 56), end.next_multiple_of(4096));
        prop_assert_eq!((u32_at(&bytes, optional + 60), u32_at(&bytes, optional + 64)), (0x400, 0));
        prop_assert_eq!(build(&uki).unwrap(), bytes);
    }

    #[test]
    fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0..700usize, value: u8) {
        let _ = sections(&bytes);
        let mut damaged = stub();
        damaged[at] = value;
        let _ = sections(&damaged);
        let kernel = stub();
        let _ = build(&Uki { stub: &damaged, kernel: &kernel, initramfs: &bytes, command_line: "", os_release: "", uname: "" });
        bytes.truncate(100);
    }
}

fn build_with(stub: &[u8], kernel: &[u8]) -> Result<Vec<u8>, UkiError> {
    build(&Uki { stub, kernel, initramfs: b"i", command_line: "c", os_release: "o", uname: "u" })
}

#[test]
fn sbat_tables_are_merged_under_one_head() {
    let kernel = program(9, "sbat,1,head\nlinux,1,y\n", true);
    let bytes = build_with(&stub(), &kernel).unwrap();
    let sbat = sections(&bytes).unwrap().into_iter().find(|(name, ..)| name == ".sbat").unwrap().2;
    let expected = format!("{SBAT_HEAD}systemd-stub,1,x\nlinux,1,y\n{SBAT_UKI}\0");
    assert_eq!(String::from_utf8(sbat).unwrap(), expected);
}

#[test]
fn a_kernel_that_is_not_nx_makes_the_whole_not_nx() {
    let flags = |bytes: &[u8]| u32_at(bytes, 0x98 + 70) as u16;
    assert_eq!(flags(&build_with(&stub(), &program(9, "", true)).unwrap()), 0x160);
    assert_eq!(flags(&build_with(&stub(), &program(9, "", false)).unwrap()), 0x60);
}

#[test]
fn a_signed_stub_and_foreign_programs_are_refused() {
    let kernel = program(9, "", true);
    let mut signed = stub();
    signed[0x98 + 144] = 1;
    assert_eq!(build_with(&signed, &kernel), Err(UkiError::Signed));
    let mut other_machine = stub();
    other_machine[0x84] = 0;
    let message = build_with(&other_machine, &kernel).unwrap_err().to_string();
    assert!(message.contains("the stub") && message.contains("x86-64"), "{message}");
    let message = build_with(&stub(), b"\x7fELF").unwrap_err().to_string();
    assert!(message.contains("the kernel") && message.contains("MZ"), "{message}");
}

#[test]
fn a_stub_without_room_is_refused() {
    let mut full = stub();
    // Twelve sections of which the last ten are empty: no room for five more.
    full[0x86..0x88].copy_from_slice(&12u16.to_le_bytes());
    let error = build_with(&full, &program(9, "", true)).map(|_| ()).unwrap_err();
    assert!(matches!(error, UkiError::NoHeaderRoom { wanted: 5, .. }), "{error}");
}
