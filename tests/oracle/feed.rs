//! From decoded spans to a digest, on the road that production takes: encode, view, fold, merge.

use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use tailkeep::base::monoid::Monoid;
use tailkeep::digest::Digest;
use tailkeep::otlp::view::{SpanView, resource_attributes};
use tailkeep::policy::PolicySet;

use crate::sampler::SpanOfResource;

/// The digest of one span under its resource.
pub fn fold(set: &PolicySet, span: &SpanOfResource) -> Digest {
    let resource = Resource {
        attributes: span.resource.clone(),
        ..Resource::default()
    };
    let part = ResourceSpans {
        resource: Some(resource),
        ..ResourceSpans::default()
    }
    .encode_to_vec();
    let bytes = span.span.encode_to_vec();
    let view = SpanView::parse(&bytes).expect("prost encodes what can be read");
    set.fold(&view, set.match_resource(resource_attributes(&part)))
}

/// The digest of spans.
pub fn fold_all<'a>(set: &PolicySet, spans: impl IntoIterator<Item = &'a SpanOfResource>) -> Digest {
    spans
        .into_iter()
        .map(|span| fold(set, span))
        .fold(Digest::EMPTY, Monoid::merge)
}
