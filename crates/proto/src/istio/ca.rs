//! `istio.v1.auth`: the certificate signing service that Istio's agents call.

use envoy_types::pb::google::protobuf::Struct;

/// A request for a workload certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateRequest {
    /// PKCS#10 request, PEM. Its names are ignored.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Requested lifetime in seconds; 0 asks for the CA's default.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// `CertSigner` and `ImpersonatedIdentity`, if any.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// The signed chain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateResponse {
    /// Leaf first, then intermediates; the last element is the whole root bundle. PEM.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// Path of the only method.
const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Client half.
pub mod istio_certificate_service_client {
    use http::uri::PathAndQuery;
    use tonic::{Request, Response, Status, client::Grpc, transport::Channel};

    use super::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};

    /// Calls `istio.v1.auth.IstioCertificateService`.
    #[derive(Debug, Clone)]
    pub struct IstioCertificateServiceClient {
        inner: Grpc<Channel>,
    }

    impl IstioCertificateServiceClient {
        /// A client over a channel.
        #[must_use]
        pub fn new(channel: Channel) -> Self {
            Self {
                inner: Grpc::new(channel),
            }
        }

        /// Asks for a certificate.
        ///
        /// # Errors
        /// The server's status, or `Unavailable` when the channel cannot be used.
        pub async fn create_certificate(
            &mut self,
            request: Request<IstioCertificateRequest>,
        ) -> Result<Response<IstioCertificateResponse>, Status> {
            self.inner
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
            self.inner
                .unary(request, path, tonic_prost::ProstCodec::default())
                .await
        }
    }
}

/// Server half.
pub mod istio_certificate_service_server {
    use std::{convert::Infallible, sync::Arc, task};

    use tonic::{
        Request, Response, Status,
        body::Body,
        codegen::{BoxFuture, Service, async_trait},
        server::{Grpc, NamedService, UnaryService},
    };

    use super::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};

    /// What a CA implements.
    #[async_trait]
    pub trait IstioCertificateService: Send + Sync + 'static {
        /// Authenticates the caller and signs.
        async fn create_certificate(
            &self,
            request: Request<IstioCertificateRequest>,
        ) -> Result<Response<IstioCertificateResponse>, Status>;
    }

    /// Serves an implementation.
    #[derive(Debug)]
    pub struct IstioCertificateServiceServer<T> {
        inner: Arc<T>,
    }

    impl<T> IstioCertificateServiceServer<T> {
        /// A service around an implementation.
        pub fn new(inner: T) -> Self {
            Self {
                inner: Arc::new(inner),
            }
        }
    }

    impl<T> Clone for IstioCertificateServiceServer<T> {
        fn clone(&self) -> Self {
            Self {
                inner: Arc::clone(&self.inner),
            }
        }
    }

    struct CreateCertificate<T>(Arc<T>);

    impl<T: IstioCertificateService> UnaryService<IstioCertificateRequest> for CreateCertificate<T> {
        type Response = IstioCertificateResponse;
        type Future = BoxFuture<Response<IstioCertificateResponse>, Status>;

        fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
            let inner = Arc::clone(&self.0);
            Box::pin(async move { inner.create_certificate(request).await })
        }
    }

    impl<T: IstioCertificateService> Service<http::Request<Body>> for IstioCertificateServiceServer<T> {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<Self::Response, Infallible>;

        fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
            task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let method = CreateCertificate(Arc::clone(&self.inner));
            Box::pin(async move {
                if request.uri().path() != CREATE_CERTIFICATE {
                    return Ok(Status::unimplemented("no such method").into_http());
                }
                Ok(Grpc::new(tonic_prost::ProstCodec::default())
                    .unary(method, request)
                    .await)
            })
        }
    }

    impl<T> NamedService for IstioCertificateServiceServer<T> {
        const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
    }
}
