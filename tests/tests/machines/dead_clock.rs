//! A master is switched off for a year, and is the same node with the same data although every certificate on its
//! disk has expired. No time server answers, and its clock's battery is empty: time does not run backwards.

use stories::{Computer, Failure, MASTER, Result, StoryCluster, expect, story};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, Time};

/// Where a clock without a battery starts; the firmware takes it for 2070.
const DEAD: &str = "1970-01-01T00:00:00";
/// More than a certificate of a machine lives.
const A_YEAR: Duration = Duration::days(400);

#[test]
fn off_for_a_year_it_is_the_same_node_and_time_does_not_run_backwards() {
    story("dead-clock", |lab| {
        let image = lab.image(MASTER)?;
        let mut master = lab.machine("m1", &image)?;
        let mac = qemu::network::default_mac("m1", 0);
        let definition = format!("[[machine]]\nname = \"m1\"\nrole = \"master\"\nmac = \"{mac}\"\n");
        let cluster = StoryCluster::new(lab, &definition)?;
        master.take_seed(&cluster, Some("m1"))?;
        master.hardware().clock_base = Some(DEAD.into());
        master.power_on()?;
        master.wait_ready()?;
        let first = master.create_and_date("first")?;
        let made = image.seed_created()?;
        expect(first >= made, &format!("a time after the image's seed was made, {made}"), &first)?;

        let before = master.node_uids()?;
        master.power_button()?;
        let later = (OffsetDateTime::now_utc() + A_YEAR).replace_time(Time::MIDNIGHT);
        master.hardware().clock_base = Some(later.date().to_string() + "T00:00:00");
        master.take_kubeconfig(&cluster.kubeconfig_at(later)?);
        master.power_on()?;
        master.wait_ready()?;
        let after = master.node_uids()?;
        expect(after == before, &format!("the node's UID {before}"), after)?;
        let second = master.create_and_date("second")?;
        expect(second >= later.date().to_string(), &format!("a time after {}", later.date()), &second)?;
        master.kubectl(&["get", "configmap", "first"])?;

        master.power_button()?;
        master.hardware().clock_base = Some(DEAD.into());
        master.power_on()?;
        let third = corrected_to(&master)?;
        expect(third > second, &format!("a time after {second}"), third)
    });
}

/// The time that init sets the clock to once it has read what it saved, RFC 3339 in UTC.
fn corrected_to(master: &Computer) -> Result<String> {
    master.wait_for_console("stage state ", 180)?;
    let console = master.console()?;
    let seconds = console.rsplit("which cannot be; set to ").next().and_then(|rest| rest.split(',').next());
    let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok());
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.ok_or_else(|| Failure::Unexpected(format!("init sets the clock to {seconds:?}")))
}
