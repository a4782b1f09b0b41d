//! The tables: made once, found again, and what differs is said.

use std::process::Command;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ProvisionedThroughput, ScalarAttributeType,
};
use babelcast::store::{Plan, StoreError};

use super::bench::{Bench, NOW, ana, clients, migrate, migrations, moto, new_prefix, patient, record};
use super::proxy::{Fault, Proxy};

const PATIENCE: Duration = Duration::from_secs(30);

fn said(plan: &Plan, prefix: &str) -> Vec<String> {
    plan.steps.iter().map(|step| step.to_string().replace(prefix, "")).collect()
}

async fn sdk() -> aws_sdk_dynamodb::Client {
    aws_sdk_dynamodb::Client::from_conf(clients(moto()).await.dynamodb().endpoint_url(moto()).build())
}

/// A table as somebody made it by hand.
async fn by_hand(name: &str, keys: &[(&str, ScalarAttributeType, KeyType)], billing: BillingMode) {
    let mut create = sdk().await.create_table().table_name(name).billing_mode(billing.clone());
    if billing == BillingMode::Provisioned {
        let capacity = ProvisionedThroughput::builder().read_capacity_units(1).write_capacity_units(1).build().unwrap();
        create = create.provisioned_throughput(capacity);
    }
    for (name, kind, key) in keys {
        let definition = AttributeDefinition::builder().attribute_name(*name).attribute_type(kind.clone()).build();
        let element = KeySchemaElement::builder().attribute_name(*name).key_type(key.clone()).build();
        create = create.attribute_definitions(definition.unwrap()).key_schema(element.unwrap());
    }
    create.send().await.unwrap();
}

#[tokio::test]
async fn tables_are_made_once_and_then_all_is_well() {
    let prefix = new_prefix();
    let migrations = migrations(moto(), &prefix).await;
    let plan = migrations.plan().await.unwrap();
    let all = [
        "create table sessions (sessionId: S), index bySpeaker (speakerId: S, createdAt: N)",
        "enable TTL on sessions by expiresAt",
        "create table presence (sessionId: S, nodeId: S)",
        "enable TTL on presence by expiresAt",
        "create table keys (key: S)",
        "enable TTL on keys by expiresAt",
        "create table lines (sessionId: S, line: S)",
        "enable TTL on lines by expiresAt",
    ];
    assert_eq!(said(&plan, &prefix), all);
    let mut told = Vec::new();
    migrations.apply(&plan, PATIENCE, |line| told.push(line.replace(&prefix, ""))).await.unwrap();
    assert_eq!(told, all);
    assert_eq!(migrations.plan().await.unwrap(), Plan::default());
    // Of two who do it at once, the later finds it done.
    migrations.apply(&Plan { steps: vec![plan.steps[0].clone()], ..plan }, PATIENCE, drop).await.unwrap();
}

#[tokio::test]
async fn a_table_is_waited_for_until_it_and_its_indexes_serve() {
    let prefix = new_prefix();
    let proxy = Proxy::before(moto()).await;
    let migrations = migrations(&proxy.url, &prefix).await;
    let whole = migrations.plan().await.unwrap();
    let sessions = Plan { steps: whole.steps[..2].to_vec(), ..Plan::default() };
    proxy.next("DescribeTable", [Fault::InTheMaking, Fault::InTheMaking, Fault::IndexInTheMaking]);
    let mut told = Vec::new();
    migrations.apply(&sessions, PATIENCE, |line| told.push(line.replace(&prefix, ""))).await.unwrap();
    assert_eq!(
        told[1..],
        ["  sessions: creating", "  sessions: index bySpeaker creating", "enable TTL on sessions by expiresAt"]
    );

    proxy.rule(|operation| if operation == "DescribeTable" { Fault::InTheMaking } else { Fault::None });
    let presence = Plan { steps: whole.steps[2..3].to_vec(), ..Plan::default() };
    let error = migrations.apply(&presence, Duration::ZERO, drop).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("{prefix}presence is still not ready")) && error.contains("again later"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_missing_is_added() {
    let prefix = new_prefix();
    let of_sessions = [("sessionId", ScalarAttributeType::S, KeyType::Hash)];
    by_hand(&format!("{prefix}sessions"), &of_sessions, BillingMode::PayPerRequest).await;
    by_hand(&format!("{prefix}keys"), &[("key", ScalarAttributeType::S, KeyType::Hash)], BillingMode::PayPerRequest)
        .await;
    let migrations = migrations(moto(), &prefix).await;
    let plan = migrations.plan().await.unwrap();
    assert_eq!(plan.differences, Vec::<String>::new());
    let said = said(&plan, &prefix);
    assert_eq!(said[0], "add index bySpeaker (speakerId: S, createdAt: N) to sessions");
    assert_eq!(said[1], "enable TTL on sessions by expiresAt");
    assert!(said.contains(&"enable TTL on keys by expiresAt".to_owned()), "{said:?}");
    migrations.apply(&plan, PATIENCE, drop).await.unwrap();
    assert_eq!(migrations.plan().await.unwrap(), Plan::default());
    let bench = Bench::at(moto(), patient(moto(), &prefix)).await;
    bench.store.create(&record("calm-river-1")).await.unwrap();
    assert_eq!(bench.store.count_open(&ana(), NOW).await, Ok(1));
}

#[tokio::test]
async fn what_differs_is_said_and_left_alone() {
    let prefix = new_prefix();
    let wrong =
        [("sessionId", ScalarAttributeType::S, KeyType::Hash), ("createdAt", ScalarAttributeType::N, KeyType::Range)];
    by_hand(&format!("{prefix}sessions"), &wrong, BillingMode::PayPerRequest).await;
    by_hand(&format!("{prefix}keys"), &[("key", ScalarAttributeType::S, KeyType::Hash)], BillingMode::Provisioned)
        .await;
    let migrations = migrations(moto(), &prefix).await;
    let plan = migrations.plan().await.unwrap();
    let [key, billing] = plan.differences.as_slice() else { panic!("{:?}", plan.differences) };
    assert!(key.starts_with(&format!("{prefix}sessions: its key is (sessionId: S, createdAt: N), not (sessionId: S)")));
    assert!(
        billing.contains("provisioned capacity") && billing.contains("--billing-mode PAY_PER_REQUEST"),
        "{billing}"
    );
    // The rest is made all the same, and what differs is as it was.
    migrations.apply(&plan, PATIENCE, drop).await.unwrap();
    let again = migrations.plan().await.unwrap();
    assert_eq!(again.differences, plan.differences);
    let without_differences: Vec<_> =
        again.steps.iter().filter(|step| !step.to_string().contains("sessions")).collect();
    assert!(without_differences.is_empty(), "{without_differences:?}");
}

#[tokio::test]
async fn a_missing_table_is_told_with_what_to_do() {
    let bench = Bench::at(moto(), patient(moto(), &new_prefix())).await;
    for error in [
        bench.store.ping().await.unwrap_err(),
        bench.store.create(&record("calm-river-1")).await.unwrap_err(),
        bench.store.list(&ana(), NOW, None, 1).await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, StoreError::Unavailable(why) if why.contains("run `babelcast migrate --apply`")),
            "{error}"
        );
    }
}

/// Runs the real command; whether it succeeded, and what it said.
fn command(prefix: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_babelcast"))
        .arg("migrate")
        .args(arguments)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("BABELCAST__STORE__KIND", "dynamodb")
        .env("BABELCAST__STORE__ENDPOINT_URL", moto())
        .env("BABELCAST__STORE__TABLE_PREFIX", prefix)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_plans_applies_and_fails_when_something_differs() {
    let prefix = new_prefix();
    for arguments in [&[][..], &["--plan"]] {
        let (well, said) = command(&prefix, arguments);
        assert!(well && said.contains(&format!("missing  would create table {prefix}sessions")), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
    }
    let (well, said) = command(&prefix, &["--apply"]);
    assert!(well && said.contains(&format!("create table {prefix}lines")) && said.ends_with("done\n"), "{said}");
    let (well, said) = command(&prefix, &["--apply"]);
    assert!(well && said.contains("every table is as it should be"), "{said}");

    let other = new_prefix();
    migrate(moto(), &other).await;
    let table = format!("{other}presence");
    sdk().await.delete_table().table_name(&table).send().await.unwrap();
    by_hand(&table, &[("id", ScalarAttributeType::S, KeyType::Hash)], BillingMode::PayPerRequest).await;
    for arguments in [&[][..], &["--apply"]] {
        let (well, said) = command(&other, arguments);
        assert!(!well, "it differs, and that is a failure: {said}");
        assert!(
            said.contains(&format!("differs  {table}: its key is (id: S), not (sessionId: S, nodeId: S)")),
            "{said}"
        );
    }
}
