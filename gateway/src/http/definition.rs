//! CREATE and DROP: checks who asks, hands the definition to the controller, waits until it is true everywhere.

use http_body_util::{BodyExt, Limited};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use moorhouse_catalog::{DdlStatement, SqlName};
use tokio::time::Instant;

use crate::body::{Account, AnswerBody, RequestBody, held};
use crate::classify::{Ddl, TableName};
use crate::controller::Asker;
use crate::exception::{Code, Exception};
use crate::http::request::Asked;
use crate::http::{ClientAddress, Endpoint, answer};
use crate::limits;
use crate::metrics::Outcome;

/// An engine answers `1` to those who are users of the warehouse. A mere `SELECT 1` would let in the engine's own `default`
/// user, which has no rights but exists without a password on the embedded engine.
const IS_A_USER: &str = "CHECK GRANT INSERT ON *.*";

impl Endpoint {
    pub(super) async fn define(&self, asked: &Asked, definition: Ddl, mut account: Account) -> Response<AnswerBody> {
        if asked.head.method != Method::POST {
            let text = "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. \
                        You should use method POST for modifying queries";
            return answer::refusal(asked, &Exception::new(Code::ReadOnly, text), account);
        }
        match self.check_user(asked).await {
            Ok(None) => {}
            Ok(Some(refusal)) => {
                account.ended(Outcome::Exception);
                return refusal;
            }
            Err(exception) => return answer::refusal(asked, &exception, account),
        }
        match self.submit(definition, &self.session_database(asked), &asker(asked)).await {
            Ok(()) => answer::done(asked, account),
            Err(exception) => answer::refusal(asked, &exception, account),
        }
    }

    /// Asks an engine who this is; gives its refusal as it is.
    async fn check_user(&self, asked: &Asked) -> Result<Option<Response<AnswerBody>>, Exception> {
        let (query, names) = asked.credentials();
        let headers = names.into_iter().filter_map(|name| Some((name.clone(), asked.head.headers.get(&name)?.clone())));
        self.ask_who(&query, headers.collect()).await
    }

    /// Asks with these credentials, which are a URL's parameters and headers.
    pub(super) async fn ask_who(
        &self,
        query: &str,
        headers: HeaderMap,
    ) -> Result<Option<Response<AnswerBody>>, Exception> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("/?{query}").parse::<Uri>().map_err(|error| {
            Exception::new(Code::BadArguments, format!("The user or password cannot be part of a URL: {error}."))
        })?;
        *request.headers_mut() = headers;
        let (head, ()) = request.into_parts();
        let (answer, _lease) = self.send(&head, RequestBody::of_bytes(IS_A_USER), &self.group, None).await?;
        let (mut head, body) = answer.into_parts();
        let body = Limited::new(body, limits::OWN_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Exception::new(Code::NetworkError, error.to_string()))?.to_bytes();
        if !head.status.is_success() {
            head.headers.remove(hyper::header::TRANSFER_ENCODING);
            head.headers.remove(hyper::header::CONNECTION);
            return Ok(Some(Response::from_parts(head, held(body))));
        }
        if body.trim_ascii() != b"1" {
            let text = "Only users of the warehouse may create and drop. Give user and password.";
            return Err(Exception::new(Code::AccessDenied, text));
        }
        Ok(None)
    }

    pub(super) async fn submit(&self, definition: Ddl, session_database: &str, asker: &Asker) -> Result<(), Exception> {
        let statement = self.statement(definition, session_database)?;
        self.controller.submit(&statement, asker).await?;
        // So that an INSERT right behind it through this gateway finds its owner group.
        let deadline = Instant::now() + limits::DDL_VISIBLE;
        let seen = match &statement {
            DdlStatement::CreateTable { database, name, .. } => {
                self.cluster.table_is(database.as_str(), name.as_str(), true, deadline).await
            }
            DdlStatement::DropTable { database, name, .. } => {
                self.cluster.table_is(database.as_str(), name.as_str(), false, deadline).await
            }
            DdlStatement::CreateDatabase { .. } | DdlStatement::DropDatabase { .. } => true,
        };
        if !seen {
            tracing::warn!("a definition is done, but the controller's view does not show it yet");
        }
        Ok(())
    }

    fn statement(&self, definition: Ddl, session_database: &str) -> Result<DdlStatement, Exception> {
        let full = |name: TableName| -> Result<(SqlName, SqlName), Exception> {
            Ok((sql_name(name.database.unwrap_or_else(|| session_database.to_owned()))?, sql_name(name.table)?))
        };
        Ok(match definition {
            Ddl::CreateDatabase(create) => DdlStatement::CreateDatabase {
                database: sql_name(create.database)?,
                if_not_exists: create.if_not_exists,
            },
            Ddl::DropDatabase(drop) => {
                DdlStatement::DropDatabase { database: sql_name(drop.database)?, if_exists: drop.if_exists }
            }
            Ddl::CreateTable(create) => {
                let (database, name) = full(create.name)?;
                DdlStatement::CreateTable {
                    group: self.group.clone(),
                    database,
                    name,
                    if_not_exists: create.if_not_exists,
                    create_tail: create.tail,
                    session_database: sql_name(session_database.to_owned())?,
                    sharding_key: create.shard_by,
                }
            }
            Ddl::DropTable(drop) => {
                let (database, name) = full(drop.name)?;
                DdlStatement::DropTable { database, name, if_exists: drop.if_exists }
            }
        })
    }
}

/// Whom the engine has just let in.
fn asker(asked: &Asked) -> Asker {
    let client = asked.head.extensions.get::<ClientAddress>().map(|client| client.0);
    Asker { user: asked.user_name().unwrap_or_else(|| "default".to_owned()), client }
}

fn sql_name(name: String) -> Result<SqlName, Exception> {
    SqlName::new(name).map_err(|error| Exception::new(Code::BadArguments, format!("{error}.")))
}
