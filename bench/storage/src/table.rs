//! Collects figures and prints medians as Markdown.

use crate::Took;

#[derive(Default)]
pub struct Table {
    rows: Vec<(&'static str, &'static str, Vec<Took>)>,
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

impl Table {
    pub fn note(&mut self, workload: &'static str, store: &'static str, took: Took) {
        match self.rows.iter_mut().find(|row| (row.0, row.1) == (workload, store)) {
            Some(row) => row.2.push(took),
            None => self.rows.push((workload, store, vec![took])),
        }
    }

    pub fn print(&self) {
        let mut workloads: Vec<&str> = Vec::new();
        let mut stores: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !workloads.contains(&row.0) {
                workloads.push(row.0);
            }
            if !stores.contains(&row.1) {
                stores.push(row.1);
            }
        }
        println!("| CPU us (wall us) | {} |", stores.join(" | "));
        println!("|---{}|", "|---".repeat(stores.len()));
        for workload in workloads {
            let cells = stores.iter().map(|store| {
                let row = self.rows.iter().find(|row| row.0 == workload && row.1 == *store);
                row.map_or("-".to_owned(), |row| {
                    let of = |figure: fn(&Took) -> f64| median(row.2.iter().map(figure).collect());
                    format!("{:.2} ({:.2})", of(|took| took.cpu_us), of(|took| took.wall_us))
                })
            });
            println!("| {workload} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
}
