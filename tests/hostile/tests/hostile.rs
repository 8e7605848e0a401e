//! Hostile input at every edge of the built binary. `SWITCHBOARD_BIN` names it (default: target/debug/switchboard); without
//! it nothing is tested, and that is said. Arguments: parts of rows' names, to run only those.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use hostile::rows::{Fault, Row, run_all};
use hostile::server::{Place, Server};
use hostile::{Outcome, abuse, api, envelope, framing, order, own_records, same, settings, stream, upgrade, utf8};

/// What was run, and what did not hold.
#[derive(Default)]
struct Tally {
    rows: usize,
    faults: Vec<Fault>,
}

impl Tally {
    fn judge(&mut self, name: &str, outcome: Outcome) {
        self.rows += 1;
        if let Err(why) = outcome {
            self.faults.push(Fault {
                name: name.to_owned(),
                why,
            });
        }
    }
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let bin = std::env::var("SWITCHBOARD_BIN").map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/switchboard"),
        PathBuf::from,
    );
    if !bin.exists() {
        println!(
            "skipped: hostile input needs the binary, {} is not there",
            bin.display()
        );
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let mut tally = Tally::default();
    if let Err(why) = run(&bin, &wanted, &mut tally) {
        tally.judge("the tables", Err(why));
    }
    for fault in &tally.faults {
        println!("FAILED {}\n       {}", fault.name, fault.why);
    }
    let (rows, failed) = (tally.rows, tally.faults.len());
    println!(
        "hostile input: {} of {rows} rows held, in {} s",
        rows - failed.min(rows),
        began.elapsed().as_secs()
    );
    ExitCode::from(u8::from(failed > 0))
}

fn run(bin: &Path, wanted: &[String], tally: &mut Tally) -> Result<(), String> {
    let dir = tempfile::Builder::new()
        .prefix("hostile")
        .tempdir()
        .map_err(|e| e.to_string())?;
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    if is_wanted("configuration") {
        let (rows, faults) = settings::run(bin, dir.path());
        tally.rows += rows;
        tally.faults.extend(faults);
    }
    if is_wanted("own records") {
        let own = dir.path().join("own");
        std::fs::create_dir_all(&own).map_err(|e| e.to_string())?;
        tally.judge("own records, spoilt in every topic", own_records::run(bin, &own));
    }
    edges(bin, dir.path(), &is_wanted, tally)
}

/// Everything that comes over sockets, against one process.
fn edges(bin: &Path, dir: &Path, is_wanted: &dyn Fn(&str) -> bool, tally: &mut Tally) -> Outcome {
    let only =
        |rows: Vec<Vec<Row>>| -> Vec<Row> { rows.into_iter().flatten().filter(|r| is_wanted(&r.name)).collect() };
    let refused = only(vec![
        framing::rows(),
        utf8::rows(),
        upgrade::rows(),
        stream::rows(),
        api::rows(),
        envelope::rows(),
        order::rows(),
    ]);
    let taken = [only(vec![order::staff_rows()]), only(vec![envelope::legal_rows()])];
    let floods = only(vec![abuse::rows()]);
    if refused.is_empty() && floods.is_empty() && taken.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let config = dir.join("shop.toml");
    std::fs::write(&config, upgrade::shop_config()).map_err(|e| e.to_string())?;
    let mut server = Server::start(bin, dir, &["--config", &config.display().to_string()])?;
    let place = server.place;

    let before = place.quiet()?;
    tally.rows += refused.len();
    tally.faults.extend(run_all(&refused, &place));
    let appended = same("records in the log", &place.appended()?, &before);
    if appended.is_err() {
        name_who_appended(&refused, &place, tally);
    }
    tally.judge("nothing that was refused is in the log", appended);
    tally.judge("the process after what was refused", server.is_sound());

    for rows in &taken {
        tally.rows += rows.len();
        tally.faults.extend(run_all(rows, &place));
    }
    tally.rows += floods.len();
    tally.faults.extend(run_all(&floods, &place));
    let sent = envelope::TAKEN.load(std::sync::atomic::Ordering::Relaxed);
    let accepted = place.metric("switchboard_accepted_total", &[])?;
    // Who is closed for sending too much does not hear of what was under way.
    let unheard = wire::limits::SENDS_IN_FLIGHT_PER_CONNECTION as u64;
    let right = (sent..=sent + unheard).contains(&accepted);
    let words = || format!("{accepted} accepted, {sent} answered");
    tally.judge(
        "no send was accepted that had to be refused",
        hostile::expect(right, words),
    );
    tally.judge("the process after it all", server.is_sound());
    tally.judge("it leaves when told", server.stop());
    Ok(())
}

/// One row after the other, to find whose bytes reached the log.
fn name_who_appended(rows: &[Row], place: &Place, tally: &mut Tally) {
    for row in rows {
        let (Ok(before), _, Ok(after)) = (place.appended(), row.run(place), place.appended()) else {
            continue;
        };
        if before != after {
            let name = format!("{} (nothing in the log)", row.name);
            tally.judge(&name, Err(format!("{} records were appended", after - before)));
        }
    }
}
