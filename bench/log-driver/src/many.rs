//! Many partitions of which little is used.

use mainstem_env::Env;

use crate::{
    Outcome, Report,
    args::Args,
    load::{Batches, Node, SMALL_BYTES, durable},
    reopen::{end, layout},
    usage::{Mark, descriptors, put, resident},
};

/// Opens new partitions, appends one batch to each, and says what they cost. `reopen` opens them
/// again.
pub(crate) async fn many(env: Env, mut args: Args) -> Outcome<Report> {
    let layout = layout(&mut args)?;
    let then: String = args.get("then", "close".to_owned())?;
    let dir = args.dir().join("log");
    args.all_read()?;
    let batch = Batches::of(&env, SMALL_BYTES)?.fresh();
    let before = resident()?;
    let mark = Mark::now(&env);
    let node = Node::start(env.clone(), dir).await?;
    let partitions = node.open(layout).await?;
    let opened = mark.elapsed(&env);
    let mut tickets = Vec::with_capacity(partitions.len());
    for partition in &partitions {
        tickets.push(partition.append(durable(batch.clone())).await?);
    }
    for ticket in tickets {
        ticket.await?;
    }
    let mut report = Report::new();
    put(&mut report, "product", resident()?);
    put(&mut report, "resident_before", before);
    put(&mut report, "opened_s", opened.seconds);
    put(&mut report, "appended_s", mark.elapsed(&env).seconds);
    put(&mut report, "descriptors", descriptors()?);
    end(&node, &partitions, &then, report).await
}
