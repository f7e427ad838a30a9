//! Requests on resources: one [`Call`] per request, one module per verb.
//!
//! [`serve`] routes an authorized call. Handlers read the store once, decide, write once; they hold
//! no locks across waiting except the two serializing mutexes of [`Api`].

pub(crate) mod convert;
mod create;
mod delete;
mod options;
mod pods;
mod read;
mod reviews;
mod scale;
mod update;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::Value;

use crate::auth::User;
use crate::http::{self as reply, Body, View};
use crate::kinds::Resource;
use crate::request::{Query, ResourcePath};
use crate::state::Api;
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Stored};
use crate::table::{self, IncludeObject};

pub(crate) use create::random_letters;
pub(crate) use delete::{DeleteOptions, remove};
pub(crate) use options::WriteOptions;

/// Requests that are not long-running end within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// One authorized request on a resource.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) user: User,
    pub(crate) resource: Arc<Resource>,
    pub(crate) path: ResourcePath,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// Warnings for the client, collected on the way.
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl Call {
    /// The store key of the call's object.
    pub(crate) fn key(&self) -> Key {
        self.api
            .key(&self.resource, &self.path.namespace, &self.path.name)
    }

    /// The call's object.
    pub(crate) fn current(&self) -> ApiResult<Arc<Stored>> {
        self.api
            .store
            .get(&self.key())
            .ok_or_else(|| ApiError::not_found(&self.resource, &self.path.name))
    }

    /// Adds a warning once.
    pub(crate) fn warn(&self, message: impl Into<String>) {
        let message = message.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&message) {
            warnings.push(message);
        }
    }

    /// How objects are shown.
    fn view(&self) -> ApiResult<View> {
        let include = IncludeObject::parse(self.query.get("includeObject").unwrap_or_default())
            .ok_or_else(|| {
                ApiError::bad_request("includeObject has to be None, Metadata or Object")
            })?;
        reply::negotiate(&self.headers, include)
    }

    /// Answers with one object in the asked view.
    fn object(&self, code: StatusCode, object: &Value) -> ApiResult<Response<Body>> {
        let shown = match self.view()? {
            View::Object => return Ok(reply::value(code, object)),
            View::Metadata => table::partial_metadata(object),
            View::Table(include) => table::table(
                &self.resource,
                [object],
                &serde_json::json!({"resourceVersion": object["metadata"]["resourceVersion"]}),
                include,
                jiff::Timestamp::now(),
            ),
        };
        Ok(reply::value(code, &shown))
    }

    /// The same call on another object of the same or another resource, as the server's own doing.
    pub(crate) fn retarget(&self, resource: &Arc<Resource>, namespace: &str, name: &str) -> Self {
        Self {
            api: Arc::clone(&self.api),
            user: self.user.clone(),
            resource: Arc::clone(resource),
            path: ResourcePath {
                group: resource.group.to_string(),
                version: resource.version.to_string(),
                resource: resource.plural.to_string(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..ResourcePath::default()
            },
            query: self.query.clone(),
            headers: HeaderMap::new(),
            warnings: Mutex::default(),
        }
    }
}

/// Executes a call.
pub(crate) async fn serve(call: Call, request: Request<Incoming>) -> Response<Body> {
    let call = Arc::new(call);
    let result = if is_long_running(&call, request.method()) {
        stream(&call, request).await
    } else {
        let work = execute(&call, request);
        tokio::time::timeout(REQUEST_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err(ApiError::timeout("the request did not complete in time")))
    };
    let mut response = result.unwrap_or_else(|error| reply::error(&error));
    if let Some(custom) = &call.resource.custom
        && let Some(warning) = &custom.deprecation_warning
    {
        call.warn(warning.clone());
    }
    reply::add_warnings(&mut response, &call.warnings.lock());
    response
}

fn is_long_running(call: &Call, method: &Method) -> bool {
    let watch =
        *method == Method::GET && call.path.subresource.is_empty() && call.query.flag("watch");
    watch
        || matches!(
            call.path.subresource.as_str(),
            "log" | "exec" | "attach" | "portforward" | "proxy"
        )
}

async fn stream(call: &Arc<Call>, request: Request<Incoming>) -> ApiResult<Response<Body>> {
    if call.path.subresource.is_empty() {
        watch::start(call)
    } else {
        crate::kubelet::forward(call, request).await
    }
}

async fn execute(call: &Arc<Call>, request: Request<Incoming>) -> ApiResult<Response<Body>> {
    let method = request.method().clone();
    let body = reply::read_body(request.into_body()).await?;
    let verb = call.path.verb(&method, false);
    let served = match call.path.subresource.as_str() {
        "" => call.resource.verbs,
        name => {
            call.resource
                .subresource(name)
                .ok_or_else(ApiError::no_such_path)?
                .verbs
        }
    };
    // `create` on a collection is also how reviews are asked.
    if !served.contains(&verb) {
        return Err(ApiError::method_not_supported());
    }
    match call.path.subresource.as_str() {
        "" if !call.resource.is_stored() => reviews::create(call, &body),
        "" | "status" | "finalize" | "approval" | "ephemeralcontainers" | "resize" => {
            on_object(call, verb, body).await
        }
        "scale" => scale::serve(call, verb, body).await,
        "token" => reviews::token(call, &body),
        "binding" => pods::bind(call, &body).await,
        "eviction" => pods::evict(call, &body).await,
        _ => Err(ApiError::method_not_supported()),
    }
}

async fn on_object(call: &Arc<Call>, verb: &str, body: Bytes) -> ApiResult<Response<Body>> {
    match verb {
        "get" => read::get(call),
        "list" => read::list(call).await,
        "create" => create::serve(call, &body).await,
        "update" => update::put(call, &body).await,
        "patch" => update::patch(call, &body).await,
        "delete" => delete::one(call, &body).await,
        "deletecollection" => delete::collection(call, &body).await,
        _ => Err(ApiError::method_not_supported()),
    }
}
