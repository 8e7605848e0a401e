//! `switchboard schema`: what others generate their code and tables from.

use clap::{Args, ValueEnum};
use process::Exit;

use crate::{Failed, open};

#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// Which one
    what: What,
    /// cql: the keyspace
    #[arg(long, default_value = "switchboard")]
    keyspace: String,
    /// cql: copies of each row
    #[arg(long, default_value_t = 3)]
    replication: u16,
    /// cql: the data centre they are in (default: wherever)
    #[arg(long, default_value = "", hide_default_value = true)]
    datacenter: String,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum What {
    /// The tables, as CQL statements
    Cql,
    /// JSON Schema of the client protocol's frames
    Frames,
    /// AsyncAPI 3 of the client protocol
    Asyncapi,
    /// OpenAPI 3.1 of the HTTP routes
    Openapi,
}

pub fn run(args: SchemaArgs) -> Result<Exit, Failed> {
    match args.what {
        What::Cql => {
            for statement in store::schema_cql(&args.keyspace, &open::replication(&args.datacenter, args.replication)) {
                println!("{};\n", statement.trim().trim_end_matches(';'));
            }
        }
        What::Frames => print!("{}", wire::schema::text_of(&wire::schema::json_schema())),
        What::Asyncapi => print!("{}", wire::schema::text_of(&wire::schema::asyncapi())),
        What::Openapi => println!(
            "{}",
            serde_json::to_string_pretty(&ingress::openapi()).unwrap_or_default()
        ),
    }
    Ok(Exit::Ok)
}
