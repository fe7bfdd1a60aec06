//! The database of a group.

use anyhow::Result;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use reel_meta::Role;
use reel_meta::mysql::{MysqlOptions, migrate};

use crate::database::block_on;
use crate::mariadb::{MariaDb, Plan};
use crate::network::Host;

/// The user of the databases.
pub(super) const USER: &str = "reel";

/// Starts it, with the tables of every role.
pub(super) fn start(host: &Host, client: &Host) -> Result<MariaDb> {
    let mut server = Plan::default().on(host).make()?;
    server.run()?;
    block_on(async {
        let socket = server.socket().display().to_string();
        let builder = OptsBuilder::default().socket(Some(socket)).user(Some("root"));
        let mut conn = Conn::new(builder).await?;
        conn.query_drop(format!("CREATE USER '{USER}'@'%'")).await?;
        let rights = "ALTER, CREATE, INDEX, TRIGGER, SELECT, INSERT, UPDATE, DELETE";
        conn.query_drop(format!("GRANT {rights} ON `tnv\\_%`.* TO '{USER}'@'%'")).await?;
        anyhow::Ok(())
    })?;
    let tables = || {
        block_on(async {
            for role in Role::ALL {
                let options = MysqlOptions::new(role, vec![server.address()], USER);
                migrate(&options, role, false).await?;
            }
            anyhow::Ok(())
        })
    };
    client.namespace().run(tables)??;
    Ok(server)
}
