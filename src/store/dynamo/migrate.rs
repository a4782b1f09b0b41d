//! Makes the tables what the definitions say: compares, adds what is missing, and says what it may not change. It deletes
//! nothing and rewrites nothing, and running it again does nothing more.

use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::config;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexDescription, GlobalSecondaryIndexUpdate, IndexStatus, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use tokio::time::Instant;

use super::call;
use crate::store::tables::{Attribute, BadDefinition, Index, Kind, Table, tables};
use crate::store::{Settings, StoreError};

/// Between two looks at a table that is being made.
const LOOK_AGAIN: Duration = Duration::from_millis(1_000);

/// The tables of one deployment, as an operator sees them.
pub struct Migrations {
    client: aws_sdk_dynamodb::Client,
    tables: Vec<Table>,
}

/// Something to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CreateTable(Table),
    AddIndex { table: Table, index: Index },
    EnableTtl { table: String, attribute: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateTable(table) => {
                write!(f, "create table {} ({})", table.name, keys(&table.hash, table.range.as_ref()))?;
                table.indexes.iter().try_for_each(|index| {
                    write!(f, ", index {} ({})", index.name, keys(&index.hash, index.range.as_ref()))
                })
            }
            Step::AddIndex { table, index } => {
                write!(f, "add index {} ({}) to {}", index.name, keys(&index.hash, index.range.as_ref()), table.name)
            }
            Step::EnableTtl { table, attribute } => write!(f, "enable TTL on {table} by {attribute}"),
        }
    }
}

/// What is to be done, and what stands in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What differs and is not for a program to change, each in a sentence.
    pub differences: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Definition(#[from] BadDefinition),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} is still not ready; it may become so by itself: run `babelcast migrate` again later")]
    NotReady(String),
}

impl Migrations {
    /// Calls nothing. `sdk`: region, credentials and HTTP client.
    pub fn new(settings: &Settings, sdk: config::Builder) -> Result<Migrations, MigrateError> {
        // Making a table is asked of another part of DynamoDB, which takes its time.
        let patient = Settings { attempt_timeout_ms: 10_000, timeout_ms: 30_000, ..settings.clone() };
        let client = aws_sdk_dynamodb::Client::from_conf(call::configured(sdk, &patient, settings.attempts));
        Ok(Migrations { client, tables: tables(&settings.table_prefix)? })
    }

    /// Compares what exists with the definitions; changes nothing.
    pub async fn plan(&self) -> Result<Plan, MigrateError> {
        let mut plan = Plan::default();
        for table in &self.tables {
            match self.describe(&table.name).await? {
                None => {
                    plan.steps.push(Step::CreateTable(table.clone()));
                    plan.steps.extend(enable_ttl(table));
                }
                Some(there) => {
                    compare(table, &there, &mut plan);
                    self.compare_ttl(table, &mut plan).await?;
                }
            }
        }
        Ok(plan)
    }

    /// Does what the plan says, in order; waits until each table and index serves, `patience` at most for each. `tell` is
    /// given a line for whatever happens.
    pub async fn apply(
        &self,
        plan: &Plan,
        patience: Duration,
        mut tell: impl FnMut(String),
    ) -> Result<(), MigrateError> {
        for step in &plan.steps {
            tell(step.to_string());
            match step {
                Step::CreateTable(table) => {
                    self.create(table).await?;
                    self.wait(&table.name, patience, &mut tell).await?;
                }
                Step::AddIndex { table, index } => {
                    self.wait(&table.name, patience, &mut tell).await?;
                    self.add_index(table, index).await?;
                    self.wait(&table.name, patience, &mut tell).await?;
                }
                Step::EnableTtl { table, attribute } => {
                    self.wait(table, patience, &mut tell).await?;
                    self.enable_ttl(table, attribute).await?;
                }
            }
        }
        Ok(())
    }

    async fn describe(&self, name: &str) -> Result<Option<TableDescription>, StoreError> {
        match self.client.describe_table().table_name(name).send().await {
            Ok(output) => Ok(output.table),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(None)
            }
            Err(error) => Err(call::failure(name, &error)),
        }
    }

    async fn compare_ttl(&self, table: &Table, plan: &mut Plan) -> Result<(), StoreError> {
        let Some(wanted) = &table.ttl else { return Ok(()) };
        let asked = self.client.describe_time_to_live().table_name(&table.name).send().await;
        let there = asked.map_err(|error| call::failure(&table.name, &error))?.time_to_live_description;
        let on = there.filter(|ttl| {
            matches!(ttl.time_to_live_status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        });
        match on.and_then(|ttl| ttl.attribute_name) {
            None => plan.steps.extend(enable_ttl(table)),
            Some(attribute) if attribute == *wanted => {}
            Some(attribute) => plan.differences.push(format!(
                "{}: TTL goes by {attribute}, not by {wanted}; disable it and run this again after an hour",
                table.name
            )),
        }
        Ok(())
    }

    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        let mut create = self
            .client
            .create_table()
            .table_name(&table.name)
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(schema(&table.hash, table.range.as_ref())?));
        for attribute in table.key_attributes(&table.indexes) {
            create = create.attribute_definitions(definition(attribute)?);
        }
        for index in &table.indexes {
            let made = GlobalSecondaryIndex::builder()
                .index_name(&index.name)
                .set_key_schema(Some(schema(&index.hash, index.range.as_ref())?))
                .projection(projection(index))
                .build();
            create = create.global_secondary_indexes(made.map_err(|error| unbuilt(&error))?);
        }
        match create.send().await {
            // Another one made it in this moment: it is waited for.
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => Ok(()),
            Err(error) => Err(call::failure(&table.name, &error)),
            Ok(_) => Ok(()),
        }
    }

    async fn add_index(&self, table: &Table, index: &Index) -> Result<(), StoreError> {
        let action = CreateGlobalSecondaryIndexAction::builder()
            .index_name(&index.name)
            .set_key_schema(Some(schema(&index.hash, index.range.as_ref())?))
            .projection(projection(index))
            .build()
            .map_err(|error| unbuilt(&error))?;
        let mut update = self
            .client
            .update_table()
            .table_name(&table.name)
            .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(action).build());
        for attribute in table.key_attributes(std::slice::from_ref(index)) {
            update = update.attribute_definitions(definition(attribute)?);
        }
        update.send().await.map(drop).map_err(|error| call::failure(&table.name, &error))
    }

    async fn enable_ttl(&self, table: &str, attribute: &str) -> Result<(), StoreError> {
        let ttl = TimeToLiveSpecification::builder().attribute_name(attribute).enabled(true).build();
        let ttl = ttl.map_err(|error| unbuilt(&error))?;
        let asked = self.client.update_time_to_live().table_name(table).time_to_live_specification(ttl).send().await;
        asked.map(drop).map_err(|error| call::failure(table, &error))
    }

    /// Waits until the table and all its indexes serve.
    async fn wait(&self, name: &str, patience: Duration, tell: &mut impl FnMut(String)) -> Result<(), MigrateError> {
        let end = Instant::now() + patience;
        let mut told = String::new();
        loop {
            let state = match self.describe(name).await? {
                Some(table) => state(&table),
                None => Some("not to be seen yet".to_owned()),
            };
            let Some(state) = state else { return Ok(()) };
            if Instant::now() >= end {
                return Err(MigrateError::NotReady(name.to_owned()));
            }
            if state != told {
                tell(format!("  {name}: {state}"));
                told = state;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// What a table and its indexes are still at; nothing when they serve.
fn state(table: &TableDescription) -> Option<String> {
    match &table.table_status {
        Some(TableStatus::Active) | None => {}
        Some(status) => return Some(status.as_str().to_lowercase()),
    }
    let busy = |index: &&GlobalSecondaryIndexDescription| {
        index.index_status.as_ref().is_some_and(|status| *status != IndexStatus::Active)
    };
    let index = table.global_secondary_indexes().iter().find(busy)?;
    let status = index.index_status.as_ref().map_or("?", IndexStatus::as_str);
    Some(format!("index {} {}", index.index_name.as_deref().unwrap_or("?"), status.to_lowercase()))
}

fn compare(table: &Table, there: &TableDescription, plan: &mut Plan) {
    let name = &table.name;
    let wanted = keys(&table.hash, table.range.as_ref());
    let found = found_keys(there.key_schema(), there.attribute_definitions());
    if found != wanted {
        plan.differences.push(format!(
            "{name}: its key is ({found}), not ({wanted}); a key cannot be changed: use another `store.table_prefix`, \
             or delete the table if nothing in it is needed"
        ));
        // Whatever else there is to say about it would be about another table.
        return;
    }
    let billing = there.billing_mode_summary.as_ref().and_then(|summary| summary.billing_mode.clone());
    // A table that never was on demand says nothing at all.
    if billing.unwrap_or(BillingMode::Provisioned) != BillingMode::PayPerRequest {
        plan.differences.push(format!(
            "{name}: it is billed by provisioned capacity, not on demand, and throttles beyond it: \
             `aws dynamodb update-table --table-name {name} --billing-mode PAY_PER_REQUEST`"
        ));
    }
    for index in &table.indexes {
        let here = there.global_secondary_indexes().iter().find(|here| here.index_name.as_deref() == Some(&index.name));
        match here {
            None => plan.steps.push(Step::AddIndex { table: table.clone(), index: index.clone() }),
            Some(here) => plan.differences.extend(index_difference(table, index, here, there.attribute_definitions())),
        }
    }
}

fn index_difference(
    table: &Table,
    index: &Index,
    here: &GlobalSecondaryIndexDescription,
    definitions: &[AttributeDefinition],
) -> Option<String> {
    let wanted = keys(&index.hash, index.range.as_ref());
    let found = found_keys(here.key_schema(), definitions);
    let again = "delete the index and run this again";
    if found != wanted {
        return Some(format!("{}: the key of index {} is ({found}), not ({wanted}); {again}", table.name, index.name));
    }
    let projection = here.projection.as_ref()?;
    if projection.projection_type == Some(ProjectionType::All) {
        return None;
    }
    let missing: Vec<&str> = index
        .include
        .iter()
        .filter(|name| !projection.non_key_attributes().contains(name))
        .map(String::as_str)
        .collect();
    (!missing.is_empty())
        .then(|| format!("{}: index {} does not carry {}; {again}", table.name, index.name, missing.join(", ")))
}

fn enable_ttl(table: &Table) -> Option<Step> {
    let attribute = table.ttl.clone()?;
    Some(Step::EnableTtl { table: table.name.clone(), attribute })
}

/// `sessionId: S, nodeId: S`.
fn keys(hash: &Attribute, range: Option<&Attribute>) -> String {
    let one = |attribute: &Attribute| format!("{}: {:?}", attribute.name, attribute.kind);
    std::iter::once(hash).chain(range).map(one).collect::<Vec<_>>().join(", ")
}

fn found_keys(schema: &[KeySchemaElement], definitions: &[AttributeDefinition]) -> String {
    let kind = |name: &str| {
        let definition = definitions.iter().find(|definition| definition.attribute_name == name);
        definition.map_or("?", |definition| definition.attribute_type.as_str())
    };
    let of = |key: &KeyType| schema.iter().find(|element| element.key_type == *key);
    let both = [of(&KeyType::Hash), of(&KeyType::Range)].into_iter().flatten();
    both.map(|element| format!("{}: {}", element.attribute_name, kind(&element.attribute_name)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn schema(hash: &Attribute, range: Option<&Attribute>) -> Result<Vec<KeySchemaElement>, StoreError> {
    let element = |attribute: &Attribute, key: KeyType| {
        KeySchemaElement::builder().attribute_name(&attribute.name).key_type(key).build()
    };
    let hash = std::iter::once(element(hash, KeyType::Hash));
    let all = hash.chain(range.map(|range| element(range, KeyType::Range)));
    all.collect::<Result<_, _>>().map_err(|error| unbuilt(&error))
}

fn definition(attribute: &Attribute) -> Result<AttributeDefinition, StoreError> {
    let kind = match attribute.kind {
        Kind::S => ScalarAttributeType::S,
        Kind::N => ScalarAttributeType::N,
    };
    let definition = AttributeDefinition::builder().attribute_name(&attribute.name).attribute_type(kind).build();
    definition.map_err(|error| unbuilt(&error))
}

fn projection(index: &Index) -> Projection {
    let projection = Projection::builder();
    if index.include.is_empty() {
        return projection.projection_type(ProjectionType::KeysOnly).build();
    }
    projection.projection_type(ProjectionType::Include).set_non_key_attributes(Some(index.include.clone())).build()
}

/// A request that the SDK will not build: a definition says something that DynamoDB has no word for.
fn unbuilt(error: &dyn std::error::Error) -> StoreError {
    StoreError::Unavailable(format!("the request cannot be made: {}", call::causes(error)))
}
