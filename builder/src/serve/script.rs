//! iPXE's scripts (ipxe.org/scripting): what firmware is told to load, one machine at a time.

use super::images::Image;
use std::fmt::Write;

/// The first script asks for the machine's own, with what iPXE knows of it (ipxe.org/cfg).
pub const MACHINE_PATH: &str = "/machine.ipxe";

/// Tells init which card this is (`spec::cmdline::BOOT_INTERFACE`).
const CARD: &str = "BOOTIF=01-${netX/mac:hexhyp}";

/// The first script.
pub fn first(base: &str) -> String {
    format!("#!ipxe\nchain --autofree {base}{MACHINE_PATH}?mac=${{netX/mac}}&serial=${{serial:uristring}}\n")
}

/// Loads an image. `install`: with what a disk of the machine's own needs besides.
pub fn start(base: &str, image: &Image, name: &str, install: bool) -> String {
    let at = format!("{base}/images/{}", image.name);
    let mut text = format!("#!ipxe\necho imgbuild: {name} starts {} {}\n", image.name, image.version);
    let mut line = |text_of_line: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{text_of_line} || goto failed");
    };
    // By UEFI the kernel finds all of iPXE's files by that one name; BIOS passes it over.
    line(format!("kernel {at}/{} initrd=initrd.magic {} {CARD}", Image::KERNEL, image.command_line));
    line(format!("initrd {at}/{}", Image::INITRAMFS));
    line(format!("initrd {at}/{}", if install { Image::START_AND_INSTALL } else { Image::START }));
    line(format!("initrd {at}/{} {} mode=0400", Image::ROOT, spec::netboot::ROOT_FILE));
    if install {
        for (path, file) in &image.on_esp {
            line(format!("initrd {at}/{file} {}/{path} mode=0400", spec::netboot::ESP_FOLDER));
        }
    }
    line("boot".to_owned());
    text.push_str(":failed\necho imgbuild: that did not work; again in 10 seconds\nsleep 10\nreboot\n");
    text
}

/// The machine has a disk of its own to start from.
pub fn from_disk(name: &str) -> String {
    // BIOS's next device may be the network again, so its first disk is meant; UEFI goes on in its own order.
    format!(
        "#!ipxe\necho imgbuild: {name} starts from its disk\niseq ${{platform}} pcbios && sanboot --no-describe --drive 0x80 || exit\n"
    )
}

/// Nothing for this machine; its firmware goes on.
pub fn nothing(reason: &str) -> String {
    let words: String = reason.chars().map(|c| if c.is_ascii_graphic() && c != '$' { c } else { ' ' }).collect();
    format!("#!ipxe\necho imgbuild: {words}\nsleep 5\nexit\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_loads_kernel_initramfs_start_and_root_in_this_order() {
        let on_esp = [("EFI/Linux/imgbuild-a.efi".to_owned(), "imgbuild.efi".to_owned())];
        let image = Image::of_words("node", "0.1.0-x", "console=ttyS0 imgbuild.roothash=ab", on_esp.into());
        let text = start("http://192.0.2.1:8080", &image, "n1", true);
        let loads: Vec<&str> =
            text.lines().filter(|line| line.starts_with("kernel") || line.starts_with("initrd")).collect();
        assert_eq!(
            loads,
            [
                "kernel http://192.0.2.1:8080/images/node/vmlinuz initrd=initrd.magic console=ttyS0 imgbuild.roothash=ab BOOTIF=01-${netX/mac:hexhyp} || goto failed",
                "initrd http://192.0.2.1:8080/images/node/initramfs.img || goto failed",
                "initrd http://192.0.2.1:8080/images/node/install.img || goto failed",
                "initrd http://192.0.2.1:8080/images/node/root.img /netboot/root.img mode=0400 || goto failed",
                "initrd http://192.0.2.1:8080/images/node/imgbuild.efi /netboot/esp/EFI/Linux/imgbuild-a.efi mode=0400 || goto failed",
            ]
        );
        let bare = start("http://192.0.2.1:8080", &image, "n1", false);
        assert!(bare.contains("/start.img") && !bare.contains("esp"));
    }

    #[test]
    fn nothing_that_a_reason_says_is_taken_for_a_command() {
        let text = nothing("a\nboot ${x}");
        assert_eq!(text, "#!ipxe\necho imgbuild: a boot  {x}\nsleep 5\nexit\n");
    }
}
