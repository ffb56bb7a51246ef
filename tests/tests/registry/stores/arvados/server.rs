//! A small Arvados, which does what its documentation says of the methods used here, and refuses everything else.
//!
//! Sources: Arvados's `doc/api/requests`, `methods`, `methods/containers`, `methods/container_requests`, `methods/links`,
//! `methods/users`; for what can be changed in which state, and the names of links, its models `Container` and `Link`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use portsplice_model::url::Url;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::form_urlencoded;

pub(crate) const ADMIN: &str = "zzzzz-tpzed-000000000000000";
pub(crate) const ANN: &str = "zzzzz-tpzed-0000000000000an";
pub(crate) const ADMIN_TOKEN: &str = "v2/zzzzz-gj3su-000000000000000/adminsecret";
pub(crate) const ANN_TOKEN: &str = "v2/zzzzz-gj3su-0000000000000an/annsecret";

const CONTAINER: [&str; 8] = [
    "uuid",
    "state",
    "priority",
    "gateway_address",
    "interactive_session_started",
    "service",
    "published_ports",
    "runtime_status",
];
const CONTAINER_REQUEST: [&str; 7] =
    ["uuid", "owner_uuid", "state", "container_uuid", "created_at", "service", "published_ports"];
const LINK: [&str; 7] = ["uuid", "owner_uuid", "link_class", "name", "head_uuid", "tail_uuid", "properties"];
const USER: [&str; 6] = ["uuid", "email", "username", "is_admin", "is_active", "prefs"];

type Objects = BTreeMap<String, Value>;

/// What it knows.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) containers: Objects,
    pub(crate) requests: Objects,
    pub(crate) links: Objects,
    /// `API.MaxItemsPerResponse`
    pub(crate) most: usize,
    /// What was asked: method and path.
    pub(crate) log: Vec<String>,
    /// Answers with this status, and this `Retry-After`, as long as it is set.
    pub(crate) failing: Option<(u16, Option<&'static str>)>,
    made: usize,
}

/// A server; ends when dropped.
pub(crate) struct Server {
    pub(crate) url: Url,
    pub(crate) world: Arc<Mutex<World>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url { tls: false, host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let world = Arc::new(Mutex::new(World { most: 1000, ..World::default() }));
        let shared = Arc::clone(&world);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, world, task }
    }

    /// A container in this state, with a request.
    pub(crate) fn container(&self, number: usize, state: &str) -> String {
        let (uuid, request) = (format!("zzzzz-dz642-{number:015}"), format!("zzzzz-xvhdp-{number:015}"));
        let ports = json!({ "8080": { "access": "public", "label": "App", "initial_path": "lab" } });
        let mut world = self.world.lock();
        world.containers.insert(
            uuid.clone(),
            json!({
                "uuid": uuid, "state": state, "priority": 1, "gateway_address": null, "interactive_session_started": false,
                "service": true, "published_ports": ports, "runtime_status": {},
            }),
        );
        world.requests.insert(
            request.clone(),
            json!({
                "uuid": request, "owner_uuid": ANN, "state": "Committed", "container_uuid": uuid,
                "created_at": "2026-11-08T21:47:36.937106000Z", "service": true, "published_ports": ports,
            }),
        );
        uuid
    }

    /// One attribute of a container.
    pub(crate) fn of(&self, uuid: &str, attribute: &str) -> Value {
        self.world.lock().containers[uuid][attribute].clone()
    }

    /// Changes one.
    pub(crate) fn set(&self, uuid: &str, attribute: &str, value: Value) {
        self.world.lock().containers.get_mut(uuid).unwrap()[attribute] = value;
    }
}

/// A gateway error: status, `Retry-After`, errors.
struct Refused(u16, Option<&'static str>, String);

fn refuse<T>(status: u16, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, None, text.into()))
}

async fn answer(world: Arc<Mutex<World>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let query = head.uri.query().unwrap_or_default().as_bytes().to_vec();
    let is_write = head.method == Method::POST || head.method == Method::PUT;
    // As parameters are merged wherever they are, what is not where the documentation puts it is still no mistake; a body
    // of another type is.
    let form = [query, if is_write { body.to_vec() } else { Vec::new() }].join(&b"&"[..]);
    let mut parameters = Parameters(form_urlencoded::parse(&form).into_owned().collect());
    let result = {
        let mut world = world.lock();
        world.log.push(format!("{} {}", head.method, head.uri.path()));
        match world.failing {
            Some((status, after)) => Err(Refused(status, after, "too much to do".into())),
            None => world.serve(&head.method, head.uri.path(), &head.headers, &mut parameters),
        }
    };
    let result = result.and_then(|value| match parameters.0.keys().next() {
        Some(unknown) => refuse(422, format!("unknown parameter {unknown}")),
        None => Ok(value),
    });
    Ok(match result {
        Ok(value) => Response::new(Full::new(Bytes::from(value.to_string()))),
        Err(Refused(status, after, text)) => {
            let body = json!({ "errors": [format!("{text} (req-12345)")], "error_token": "1478640000+0123abcd" });
            let mut response = Response::builder().status(status);
            if let Some(after) = after {
                response = response.header(RETRY_AFTER, after);
            }
            response.body(Full::new(Bytes::from(body.to_string()))).unwrap()
        }
    })
}

struct Parameters(BTreeMap<String, String>);

impl Parameters {
    fn json(&mut self, name: &str) -> Result<Option<Value>, Refused> {
        let Some(text) = self.0.remove(name) else { return Ok(None) };
        serde_json::from_str(&text).map(Some).or_else(|_| refuse(422, format!("Could not parse {name:?}")))
    }

    fn select(&mut self, attributes: &[&str]) -> Result<Vec<String>, Refused> {
        let Some(value) = self.json("select")? else { return Ok(attributes.iter().map(ToString::to_string).collect()) };
        let Ok(select) = serde_json::from_value::<Vec<String>>(value) else { return refuse(422, "select") };
        match select.iter().find(|name| !attributes.contains(&name.as_str())) {
            Some(name) => refuse(422, format!("#<ArgumentError: Invalid attribute '{name}' in select parameter>")),
            None => Ok(select),
        }
    }
}

fn selected(object: &Value, select: &[String]) -> Value {
    select.iter().map(|name| (name.clone(), object[name].clone())).collect::<serde_json::Map<_, _>>().into()
}

impl World {
    fn serve(
        &mut self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        parameters: &mut Parameters,
    ) -> Result<Value, Refused> {
        let user = match headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ")) {
            Some(ADMIN_TOKEN) => ADMIN,
            Some(ANN_TOKEN) => ANN,
            _ => return refuse(401, "Not logged in"),
        };
        let Some(path) = path.strip_prefix("/arvados/v1/") else { return refuse(404, "Path not found") };
        let parts: Vec<&str> = path.split('/').collect();
        match (method.as_str(), &*parts) {
            ("GET", ["users", "current"]) => {
                let select = parameters.select(&USER)?;
                let object = json!({ "uuid": user, "is_admin": user == ADMIN, "is_active": true, "username": "x" });
                Ok(selected(&object, &select))
            }
            ("GET", [kind]) => self.list(kind, user, parameters),
            ("GET", [kind, uuid]) => {
                let (objects, attributes) = self.kind(kind)?;
                let select = parameters.select(attributes)?;
                let object = objects.get(*uuid).filter(|object| may_read(object, user));
                object.map_or_else(|| refuse(404, "Path not found"), |object| Ok(selected(object, &select)))
            }
            ("PUT", ["containers", uuid]) => self.update_container(uuid, user, parameters),
            ("POST", ["links"]) => self.create_link(user, parameters),
            ("DELETE", ["links", uuid]) => {
                let select = parameters.select(&LINK)?;
                let found = self.links.get(*uuid).filter(|object| may_read(object, user));
                let Some(link) = found else { return refuse(404, "Path not found") };
                let link = selected(link, &select);
                self.links.remove(*uuid);
                Ok(link)
            }
            _ => refuse(404, "Path not found"),
        }
    }

    fn kind(&self, kind: &str) -> Result<(&Objects, &'static [&'static str]), Refused> {
        match kind {
            "containers" => Ok((&self.containers, &CONTAINER)),
            "container_requests" => Ok((&self.requests, &CONTAINER_REQUEST)),
            "links" => Ok((&self.links, &LINK)),
            _ => refuse(404, "Path not found"),
        }
    }

    fn list(&self, kind: &str, user: &str, parameters: &mut Parameters) -> Result<Value, Refused> {
        let (objects, attributes) = self.kind(kind)?;
        let select = parameters.select(attributes)?;
        let filters = parameters.json("filters")?.unwrap_or_else(|| json!([]));
        let Value::Array(filters) = filters else { return refuse(422, "filters is no array") };
        let limit =
            parameters.json("limit")?.map_or(Some(100), |limit| limit.as_u64()).and_then(|l| usize::try_from(l).ok());
        let Some(limit) = limit else { return refuse(422, "Invalid value for limit parameter") };
        match parameters.0.remove("count").as_deref() {
            None | Some("exact" | "none") => {}
            Some(_) => return refuse(422, "count parameter must be 'exact' or 'none'"),
        }
        // An order by what is not selected is silently dropped, and then the order is another.
        if parameters.json("order")? != Some(json!(["uuid asc"])) || !select.contains(&"uuid".to_owned()) {
            return refuse(422, "this server only knows the order by uuid");
        }
        let mut items = Vec::new();
        for object in objects.values().filter(|object| may_read(object, user)) {
            let mut fits = true;
            for filter in &filters {
                fits &= matches(object, filter, attributes)?;
            }
            if fits {
                items.push(selected(object, &select));
            }
        }
        let limit = limit.min(self.most);
        items.truncate(limit);
        Ok(json!({ "kind": format!("arvados#{kind}List"), "offset": 0, "limit": limit, "items": items }))
    }

    fn update_container(&mut self, uuid: &str, user: &str, parameters: &mut Parameters) -> Result<Value, Refused> {
        let select = parameters.select(&CONTAINER)?;
        let Some(Value::Object(changes)) = parameters.json("container")? else { return refuse(422, "container") };
        let Some(container) = self.containers.get_mut(uuid).filter(|object| may_read(object, user)) else {
            return refuse(404, "Path not found");
        };
        if user != ADMIN {
            return refuse(403, "#<ArvadosModel::PermissionDeniedError>");
        }
        let running = container["state"] == "Running";
        for (name, value) in changes.iter().filter(|(name, value)| container[name.as_str()] != **value) {
            let permitted = match name.as_str() {
                "gateway_address" => running && (value.is_string() || value.is_null()),
                "interactive_session_started" => running && container[name.as_str()] != true && value.is_boolean(),
                _ => false,
            };
            if !permitted {
                return refuse(422, format!("{name} cannot be modified in state {}", container["state"]));
            }
        }
        for (name, value) in changes {
            container[name.as_str()] = value;
        }
        Ok(selected(container, &select))
    }

    fn create_link(&mut self, user: &str, parameters: &mut Parameters) -> Result<Value, Refused> {
        let select = parameters.select(&LINK)?;
        let Some(Value::Object(mut link)) = parameters.json("link")? else { return refuse(422, "link") };
        if let Some(unknown) = link.keys().find(|name| !LINK.contains(&name.as_str())) {
            return refuse(
                422,
                format!("#<ActiveModel::UnknownAttributeError: unknown attribute '{unknown}' for Link.>"),
            );
        }
        let head = link.get("head_uuid").and_then(Value::as_str).unwrap_or_default();
        if link.get("link_class") != Some(&json!("published_port")) || head.len() != 27 || &head[6..11] != "xvhdp" {
            return refuse(422, "Head uuid must be a container request UUID");
        }
        let owner = link.entry("owner_uuid").or_insert_with(|| json!(user)).clone();
        if user != ADMIN && owner != user {
            return refuse(403, "#<ArvadosModel::PermissionDeniedError>");
        }
        if self.links.values().any(|other| other["name"] == link["name"]) {
            let text = "#<ActiveRecord::RecordNotUnique: PG::UniqueViolation: ERROR:  duplicate key value violates unique \
                        constraint \"index_links_on_name\">";
            return refuse(422, text);
        }
        self.made += 1;
        let uuid = format!("zzzzz-o0j2j-{:015}", self.made);
        link.insert("uuid".into(), json!(uuid));
        let link = Value::Object(link);
        let answer = selected(&link, &select);
        self.links.insert(uuid, link);
        Ok(answer)
    }
}

/// An administrator reads everything, others what is theirs.
fn may_read(object: &Value, user: &str) -> bool {
    user == ADMIN || object["owner_uuid"] == user
}

fn matches(object: &Value, filter: &Value, attributes: &[&str]) -> Result<bool, Refused> {
    let wrong = || refuse(422, format!("#<ArgumentError: Invalid element in filters array: {filter}>"));
    let Some([name, operator, operand]) = filter.as_array().map(Vec::as_slice) else { return wrong() };
    let (Some(name), Some(operator)) = (name.as_str(), operator.as_str()) else { return wrong() };
    if !attributes.contains(&name) {
        return refuse(422, format!("#<ArgumentError: Invalid attribute '{name}' in filter>"));
    }
    let value = &object[name];
    match (operator, operand) {
        ("=", Value::String(_) | Value::Null) => Ok(value == operand),
        ("!=", Value::String(_) | Value::Null) => Ok(value != operand),
        (">", Value::String(operand)) => Ok(value.as_str().is_some_and(|value| value > operand.as_str())),
        ("in", Value::Array(operands)) => Ok(operands.contains(value)),
        _ => wrong(),
    }
}
