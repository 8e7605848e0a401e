//! A table's rows, and running them side by side.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Outcome;
use crate::server::Place;

/// Rows that wait are cheap; this many wait at once.
const SIDE_BY_SIDE: usize = 24;

type Check = Box<dyn Fn(&Place) -> Outcome + Send + Sync>;

/// One line of a table.
pub struct Row {
    pub name: String,
    check: Check,
}

impl Row {
    pub fn new(name: impl Into<String>, check: impl Fn(&Place) -> Outcome + Send + Sync + 'static) -> Self {
        Row {
            name: name.into(),
            check: Box::new(check),
        }
    }

    /// The row itself, then a good client.
    pub fn run(&self, place: &Place) -> Outcome {
        (self.check)(place)?;
        place.serves().map_err(|why| format!("a good client afterwards: {why}"))
    }
}

/// A row that did not hold.
pub struct Fault {
    pub name: String,
    pub why: String,
}

/// Runs rows side by side; the faults come in the rows' order.
pub fn run_all(rows: &[Row], place: &Place) -> Vec<Fault> {
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let work = || {
        while let Some((index, row)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            rows.get(index).map(|row| (index, row))
        } {
            let began = Instant::now();
            if let Err(why) = row.run(place) {
                let why = format!("{why} ({} ms)", began.elapsed().as_millis());
                let fault = Fault {
                    name: row.name.clone(),
                    why,
                };
                faults.lock().unwrap_or_else(|e| e.into_inner()).push((index, fault));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE.min(rows.len()) {
            scope.spawn(work);
        }
    });
    let mut faults = faults.into_inner().unwrap_or_else(|e| e.into_inner());
    faults.sort_by_key(|(index, _)| *index);
    faults.into_iter().map(|(_, fault)| fault).collect()
}
