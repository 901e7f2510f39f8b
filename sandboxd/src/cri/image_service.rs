//! `ImageService` of `runtime.v1` on the wire.

use sandboxd_api::cri::image_service_server::ImageService;
use sandboxd_api::cri::*;
use tonic::{Request, Response};

use super::Cri;
use super::services::{Answer, Streamed};
use crate::telemetry::Rpc;

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Streamed<StreamImagesResponse>;

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = Cri::list_images(self, "ListImages", request.into_inner().filter)?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Answer<Streamed<StreamImagesResponse>> {
        let batches = self.image_batches(request.into_inner().filter)?;
        Ok(Response::new(Box::pin(tokio_stream::iter(batches.map(Ok)))))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        Ok(Response::new(Cri::image_status(self, request.into_inner()).await?))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let (metadata, _, request) = request.into_parts();
        let mut call = self.telemetry.begin(Rpc::PullImage, &metadata);
        let asked = request.image.as_ref();
        call.note("container.image.name", || asked.map(|image| image.image.clone()).unwrap_or_default());
        let image_ref = call.end(Cri::pull_image(self, request).await)?;
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        Cri::remove_image(self, request.into_inner()).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        Ok(Response::new(Cri::image_fs_info(self).await?))
    }
}
