"""What `make lab` tells the Jupyter server and JupyterLab. Knows nothing of ours."""

import json

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

# `python -m llmviz.lab` prints them, for `overrides.json`.
SETTINGS = {
    # The first lesson should not begin with a question, whether news may be fetched.
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
    # ipykernel would answer an explorer's controls in two threads, and then a click can overtake
    # the edit before it.
    "@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"},
}


class PromptConnection(ZMQChannelsWebsocketConnection):
    """The server's connection from a kernel to the browser, without Nagle's algorithm.

    A slider's move is answered by several small messages. The server would hold back all but the
    first until the browser has confirmed it, which takes browsers 40 ms: most of a drag's time.
    `--ServerApp.kernel_websocket_connection_class=llmviz.lab.PromptConnection`
    """

    def connect(self):
        self.websocket_handler.set_nodelay(True)
        return super().connect()


if __name__ == "__main__":
    print(json.dumps(SETTINGS, indent=2))
