# Clients that are recorded for an hour: they sleep nearly all the time.
#
# usage: clients.rb WHAT HTTP_PORT LINES_PORT
require 'net/http'
require 'socket'

HTTP, LINES = ARGV[1].to_i, ARGV[2].to_i
KEPT = []

# A session every five minutes that nobody finishes.
def session_every_five_minutes
  loop do
    session = Net::HTTP.new('127.0.0.1', HTTP)
    session.keep_alive_timeout = 7200
    session.start
    session.get('/small/prices')
    KEPT << session
    sleep 300
  end
end

# A job every fifteen minutes that opens ten and closes them a minute later.
def job_that_cleans_up
  loop do
    opened = Array.new(10) do
      socket = TCPSocket.new('127.0.0.1', LINES)
      socket.write("hello\n")
      socket.gets
      socket
    end
    sleep 60
    opened.each(&:close)
    sleep 14 * 60
  end
end

send(ARGV[0])
